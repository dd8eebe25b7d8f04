"""A frozen encoder: a checkpoint's weights, and what they make of clips."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tats_ray.claims import next_number
from tats_ray.config.files import read_run
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.copies import where
from tats_ray.geometry import TokenGrid
from tats_ray.methods.build import build_method
from tats_ray.mirror import exists, read_text
from tats_ray.nn.encoder import VideoEncoder
from tats_ray.nn.patches import patchify
from tats_ray.training.state import INDEX, CheckpointError, latest_checkpoint, load_module, verify_checkpoint

WEIGHTS = "autoencoder"
"""The module of a checkpoint that holds the encoder."""

Order = Literal["in_order", "reversed", "shuffled"]
"""In which order the frames of a view are shown."""
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True)
class FrozenEncoder:
    """The encoder of one checkpoint, in inference mode, in float32.

    Example:
        >>> frozen = FrozenEncoder.load(Path("results/tiny/0001"), device=torch.device("cpu"))
        >>> tokens = frozen.encode(video, keys=["a/0"], token_ratio=0.25, order="in_order", seed=0)
    """

    encoder: VideoEncoder
    run: TrainRun
    """The run that trained it; its clips are as long as the views that the encoder is shown."""
    checkpoint: Path
    """Folder of the checkpoint."""
    digest: str
    """SHA-256 of its weights."""
    step: int
    """Steps that it was trained for."""
    run_id: str | None
    """MLflow run that made it."""
    device: torch.device

    @classmethod
    def load(cls, place: Path, *, device: torch.device, num_frames: int | None = None) -> "FrozenEncoder":
        """Load the newest checkpoint of a run's folder, or the checkpoint given.

        Args:
            place: Folder of a run, or of a checkpoint.
            device: Where the encoder goes.
            num_frames: Of the views that it is to be shown; None for as many as it was trained on.

        Raises:
            CheckpointError: It is neither, is damaged, or does not fit the model that its run.yaml describes.
            ConfigError: run.yaml cannot be read, or tokens or windows of the run do not divide so many frames.
        """
        checkpoint = checkpoint_at(place)
        settings = checkpoint.parent.parent / "run.yaml"
        verify_checkpoint(checkpoint)
        index = json.loads(read_text(checkpoint / INDEX))
        if f"{WEIGHTS}.safetensors" not in index["files"]:
            raise CheckpointError(
                f"checkpoint {checkpoint} holds no {WEIGHTS}.safetensors, so it has no encoder to probe"
            )
        run = read_run(settings)
        if num_frames is not None:
            run = change(run, [("data.num_frames", num_frames)])
        return cls(
            encoder=_loaded(run, checkpoint, device),
            run=run,
            checkpoint=checkpoint,
            digest=index["files"][f"{WEIGHTS}.safetensors"]["sha256"],
            step=index["step"],
            run_id=index.get("mlflow_run_id"),
            device=device,
        )

    @property
    def folder(self) -> Path:
        """The folder of the run that made the checkpoint."""
        return self.checkpoint.parent.parent

    @property
    def grid(self) -> TokenGrid:
        """How a view is cut into tokens."""
        return self.run.grid

    @property
    def dim(self) -> int:
        """Width of a feature."""
        return self.run.model.encoder.embed_dim

    def num_tokens(self, token_ratio: float) -> int:
        """Return the tokens that are encoded of a view."""
        return self.grid.time * kept_per_slot(self.grid, token_ratio)

    @torch.inference_mode()
    def encode(self, video: Tensor, *, keys: Sequence[str], token_ratio: float, order: Order, seed: int) -> Tensor:
        """Encode views.

        Args:
            video: uint8 RGB ``[batch, frames, height, width, 3]``.
            keys: A name for each view; what is drawn is a function of it and of ``seed`` alone.
            token_ratio: Share of the tokens that the encoder sees; see :func:`kept_tokens`.
            order: In which order the frames are shown.
            seed: Of the draws.

        Returns:
            float32 ``[batch, kept, dim]`` on the encoder's device, time slot by time slot.
        """
        patches = patchify(ordered(video, keys=keys, order=order, seed=seed).to(self.device), self.grid)
        if token_ratio == 1:
            return self.encoder(patches)
        return self.encoder(patches, kept_tokens(self.grid, token_ratio, keys=keys, seed=seed).to(self.device))


def kept_per_slot(grid: TokenGrid, token_ratio: float) -> int:
    """Return how many tokens of a time slot are kept: the nearest whole number, at least one."""
    if not 0 < token_ratio <= 1:
        raise ValueError(f"token_ratio must be in (0, 1], got {token_ratio}")
    return max(1, round(grid.slot_tokens * token_ratio))


def kept_tokens(grid: TokenGrid, token_ratio: float, *, keys: Sequence[str], seed: int) -> Tensor:
    """Draw random tokens for each view, equally many in each time slot, so that no slot is without a feature.

    Returns:
        Sorted token numbers, int64 ``[keys, kept]``. Of one key, those of a smaller ratio are among those of a larger.
    """
    count = kept_per_slot(grid, token_ratio)
    first = np.arange(grid.time)[:, None] * grid.slot_tokens
    drawn = [
        np.sort(first + _noise("tokens", key, seed).random((grid.time, grid.slot_tokens)).argsort(1)[:, :count], axis=1)
        for key in keys
    ]
    return torch.from_numpy(np.stack(drawn).reshape(len(keys), -1))


def ordered(video: Tensor, *, keys: Sequence[str], order: Order, seed: int) -> Tensor:
    """Return views with their frames in order, reversed, or shuffled by a permutation of each view's own."""
    frames = video.shape[1]
    if order == "in_order":
        return video
    if order == "reversed":
        return video.flip(1)
    shuffled = np.stack([_noise("frames", key, seed).permutation(frames) for key in keys])
    return video[torch.arange(len(video))[:, None], torch.from_numpy(shuffled)]


def slot_means(tokens: Tensor, grid: TokenGrid) -> Tensor:
    """Average the tokens of each time slot, ``[batch, kept, dim]`` to ``[batch, time, dim]``."""
    return tokens.unflatten(1, (grid.time, -1)).mean(2)


def _noise(what: str, key: str, seed: int) -> np.random.Generator:
    """Return a generator that is a function of these three alone."""
    digest = hashlib.sha256(f"{what}\0{seed}\0{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def checkpoint_at(place: Path) -> Path:
    """Return the checkpoint that a path names: itself, the newest of a run's folder, or that of a name's newest run.

    Its run.yaml is there. Runs of a name that have no checkpoint are passed over.

    Raises:
        CheckpointError: It is none of them, or run.yaml is missing.
    """
    place = place.expanduser().absolute()
    numbers = range(next_number(place) - 1, 0, -1)
    found = (latest_checkpoint(folder / "checkpoints") for folder in (place, *(place / f"{n:04d}" for n in numbers)))
    checkpoint = next((checkpoint for checkpoint in found if checkpoint is not None), place)
    if not exists(checkpoint / INDEX):
        raise CheckpointError(
            f"{where(place)} is neither a checkpoint (it has no {INDEX}) nor the folder of a run that has one; name a "
            f"folder such as <results>/<name>, <results>/<name>/0001 or "
            f"<results>/<name>/0001/checkpoints/step_00000200"
        )
    settings = checkpoint.parent.parent / "run.yaml"
    if not exists(settings):
        raise CheckpointError(
            f"{where(checkpoint)} lies in no folder of a run: {where(settings)} is missing, which says what model it "
            f"is; keep checkpoints where their run wrote them, or copy run.yaml with them"
        )
    return checkpoint


def _loaded(run: TrainRun, checkpoint: Path, device: torch.device) -> VideoEncoder:
    with torch.random.fork_rng(devices=[]):  # drawn anew and replaced; the caller's stream goes on as if not
        method = build_method(run.model, run.masking, grid=run.grid, total_steps=1, global_batch=1, seed=0)
    load_module(checkpoint, WEIGHTS, method.autoencoder)
    return method.autoencoder.encoder.to(device).eval().requires_grad_(False)
