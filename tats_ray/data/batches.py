"""Some clips of a global batch as tensors: what goes from the data to the training."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ClipBatch:
    """Some clips of a global batch.

    Example:
        >>> batch = ClipBatch(torch.zeros(8, 16, 224, 224, 3, dtype=torch.uint8), row=torch.arange(8))
        >>> len(batch)
        8
    """

    video: torch.Tensor
    """uint8 RGB [batch, frames, height, width, 3]."""
    row: torch.Tensor
    """int64 [batch]: the place of each clip in the global batch."""
    truth: torch.Tensor | None = None
    """float32 [batch, tokens]: share of each token that shows a mover, of synthetic clips where it is asked for."""
    codes: torch.Tensor | None = None
    """int64 [batch, tokens]: numbers of the clips' codes, where clips come with them."""
    importance: torch.Tensor | None = None
    """float32 [batch, tokens]: what the tokenizer of the codes ranks tokens by; there with codes."""

    def __post_init__(self) -> None:
        if self.video.dtype != torch.uint8 or self.video.ndim != 5 or self.video.shape[-1] != 3:
            found = f"{self.video.dtype} {list(self.video.shape)}"
            raise ValueError(f"video must be uint8 [batch, frames, height, width, 3], got {found}")
        if self.row.dtype != torch.int64 or self.row.shape != self.video.shape[:1]:
            found = f"{self.row.dtype} {list(self.row.shape)}"
            raise ValueError(f"row must be int64 [{len(self.video)}], a number for each clip, got {found}")
        if self.truth is not None and (self.truth.dtype != torch.float32 or self.truth.shape[:-1] != self.row.shape):
            found = f"{self.truth.dtype} {list(self.truth.shape)}"
            raise ValueError(f"truth must be float32 [{len(self.video)}, tokens], got {found}")

        for name, dtype in (("codes", torch.int64), ("importance", torch.float32)):
            given = getattr(self, name)
            if given is not None and (given.dtype != dtype or given.shape[:-1] != self.row.shape):
                found = f"{given.dtype} {list(given.shape)}"
                raise ValueError(f"{name} must be {dtype} [{len(self.video)}, tokens], got {found}")

    def __len__(self) -> int:
        return len(self.video)

    def take(self, which: torch.Tensor) -> "ClipBatch":
        """Return some of the clips, by their places in the batch."""
        return ClipBatch(**{name: tensor[which] for name, tensor in vars(self).items() if tensor is not None})

    def to(self, device: torch.device | str) -> "ClipBatch":
        """Return the batch on a device; pinned memory is copied without waiting."""
        given = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return ClipBatch(**{name: tensor.to(device, non_blocking=True) for name, tensor in given.items()})
