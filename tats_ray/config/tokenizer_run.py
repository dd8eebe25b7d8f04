"""TokenizerRun: the run that trains LVMAE's adaptive tokenizer, and the tokenizer that a run left."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import torch
from pydantic import Field

from tats_ray.config.files import read_run
from tats_ray.config.run import NAME, Run
from tats_ray.geometry import TokenGrid
from tats_ray.methods.base import Method
from tats_ray.methods.tokenizer import TokenizerTraining, build_tokenizer, tokenizer_flops
from tats_ray.tokenizer.adversarial import LossConfig
from tats_ray.tokenizer.model import AdaptiveTokenizer, TokenizerConfig
from tats_ray.training.config import TrainingConfig
from tats_ray.training.optim import OptimConfig
from tats_ray.training.state import CheckpointError, checkpoint_identity, load_module, verify_checkpoint

WEIGHTS = "tokenizer"
"""The module of a checkpoint that holds the tokenizer."""


class TokenizerRun(Run):
    """A complete training of a tokenizer; its clips are windows of ``data.num_frames`` frames."""

    shaped_by = ("tokenizer", "losses")

    name: str = Field(default="tokenizer", pattern=NAME)
    """Results lie under this name; an interrupted run of the same name is resumed."""
    optim: OptimConfig = OptimConfig(
        base_learning_rate=1e-4, base_min_learning_rate=0.0, weight_decay=0.0, betas=(0.0, 0.99)
    )
    """How tokenizer and discriminator learn; MAGVIT's settings."""
    training: TrainingConfig = TrainingConfig(epochs=300)
    """Length, batch and cadences."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Shape of the tokenizer, and how it learns which tokens matter."""
    losses: LossConfig = LossConfig()
    """What a reconstruction is judged by."""

    @property
    def grid(self) -> TokenGrid:
        """How a window is cut into latents."""
        return TokenGrid.of(
            num_frames=self.data.num_frames,
            crop_size=self.data.crop_size,
            tubelet_size=self.tokenizer.tubelet_size,
            patch_size=self.tokenizer.patch_size,
        )

    def build_method(self, *, total_steps: int) -> TokenizerTraining:
        """Build the tokenizer, and what judges it."""
        return build_tokenizer(self.tokenizer, self.losses, grid=self.grid, total_steps=total_steps)

    def flops(self) -> Mapping[str, int]:
        """Return the counted FLOPs of one clip's training step, by part."""
        return tokenizer_flops(self.tokenizer, self.losses, grid=self.grid)

    def facts(self, method: Method) -> Mapping[str, str]:
        """Return counts of latents and codes."""
        assert isinstance(method, TokenizerTraining)
        grid, tokenizer = self.grid, method.tokenizer
        return {
            "latents a window": f"{grid.num_tokens:,} ({grid.time} x {grid.height} x {grid.width})",
            "kept latents": f"{tokenizer.keep:,}",
            "codes": f"{tokenizer.quantizer.size:,}",
        }

    def settled(self, absolute: Callable[[str, str], str]) -> Self:
        """Return the run with the path of the perceptual network's weights made absolute.

        Raises:
            ValueError: There is no such file.
        """
        if self.losses.perceptual_weights is None:
            return self
        path = absolute(self.losses.perceptual_weights, "losses.perceptual_weights")
        if not Path(path).is_file():
            raise ValueError(
                f"losses.perceptual_weights={path} is no file; give one of torchvision's ResNet-50 weights, or leave "
                f"losses.perceptual_weight at 0"
            )
        losses = self.losses.model_copy(update={"perceptual_weights": path})
        return self.model_copy(update={"losses": losses})


def read_tokenizer(checkpoint: Path) -> tuple[AdaptiveTokenizer, TokenizerRun, str]:
    """Return the tokenizer of a checkpoint in a run's folder, on the host and frozen, with its run and content hash.

    Raises:
        CheckpointError: It is damaged, holds no tokenizer, or another one than its record names.
        ConfigError: run.yaml cannot be read, or is of another kind of run.
    """
    verify_checkpoint(checkpoint)
    recorded = checkpoint_identity(checkpoint).get(WEIGHTS)
    if recorded is None:
        raise CheckpointError(f"checkpoint {checkpoint} holds no tokenizer; name a run of pipelines/train_tokenizer.py")
    run = read_run(checkpoint.parent.parent / "run.yaml", TokenizerRun)
    with torch.random.fork_rng(devices=[]):  # drawn anew and replaced; the caller's stream goes on as if not
        tokenizer = AdaptiveTokenizer(run.tokenizer, grid=run.grid)
    load_module(checkpoint, WEIGHTS, tokenizer)
    if tokenizer.content_hash() != recorded:
        raise CheckpointError(
            f"the tokenizer of {checkpoint} is not the one that was recorded with it ({recorded[:12]}): its run.yaml "
            f"was changed; restore it, or train the tokenizer again"
        )
    return tokenizer.eval().requires_grad_(False), run, recorded
