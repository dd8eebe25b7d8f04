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

    def __post_init__(self) -> None:
        if self.video.dtype != torch.uint8 or self.video.ndim != 5 or self.video.shape[-1] != 3:
            found = f"{self.video.dtype} {list(self.video.shape)}"
            raise ValueError(f"video must be uint8 [batch, frames, height, width, 3], got {found}")
        if self.row.dtype != torch.int64 or self.row.shape != self.video.shape[:1]:
            found = f"{self.row.dtype} {list(self.row.shape)}"
            raise ValueError(f"row must be int64 [{len(self.video)}], a number for each clip, got {found}")

    def __len__(self) -> int:
        return len(self.video)

    def to(self, device: torch.device | str) -> "ClipBatch":
        """Return the batch on a device; pinned memory is copied without waiting."""
        return ClipBatch(self.video.to(device, non_blocking=True), self.row.to(device, non_blocking=True))
