"""TokenizerRun: the run that trains LVMAE's adaptive tokenizer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from tats_ray.config.run import Run
from tats_ray.geometry import TokenGrid
from tats_ray.methods.base import Method
from tats_ray.methods.tokenizer import TokenizerTraining, build_tokenizer, tokenizer_flops
from tats_ray.tokenizer.adversarial import LossConfig
from tats_ray.tokenizer.model import TokenizerConfig
from tats_ray.training.config import TrainingConfig
from tats_ray.training.optim import OptimConfig


class TokenizerRun(Run):
    """A complete training of a tokenizer; its clips are windows of ``data.num_frames`` frames."""

    shaped_by = ("tokenizer", "losses")

    name: str = "tokenizer"
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
