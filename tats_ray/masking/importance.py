"""Importance: how much a token matters to what the decoder predicts, a number for each, ranked over the whole clip."""

from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid
from tats_ray.masking.frame_difference import patch_frame_difference


class Importance(Protocol):
    """Ranks the tokens of clips; nothing learns from how it ranks them."""

    def __call__(self, batch: ClipBatch, patches: Tensor) -> Tensor:
        """Return finite numbers, float32 ``[batch, tokens]`` without gradient; the higher the more important.

        Args:
            batch: The clips.
            patches: Their pixels cut into tokens, uint8 ``[batch, tokens, pixels]``.
        """
        ...


class NoImportanceConfig(BaseModel):
    """No rule of the run asks for importance."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["none"] = "none"
    """What ranks the tokens."""


class ChangeConfig(BaseModel):
    """Tokens are as important as their pixels change from frame to frame."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["frame-difference"] = "frame-difference"
    """What ranks the tokens."""


class Change:
    """Mean absolute difference of successive frames, in [0, 1]."""

    def __init__(self, *, grid: TokenGrid, tubelet_size: int) -> None:
        self.grid = grid
        self.tubelet_size = tubelet_size

    def __call__(self, batch: ClipBatch, patches: Tensor) -> Tensor:
        """Rank by the pixels."""
        return patch_frame_difference(patches, self.grid, tubelet_size=self.tubelet_size)
