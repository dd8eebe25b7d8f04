"""Every hidden token is a target: VideoMAE, AdaMAE and TATS."""

from typing import Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from tats_ray.geometry import TokenGrid
from tats_ray.masking.targets import Targets


class AllHiddenConfig(BaseModel):
    """Every hidden token is predicted."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["all-hidden"] = "all-hidden"
    """Rule by which the targets are chosen."""


class AllHidden:
    """All tokens that are not visible."""

    draws = False

    def __init__(self, *, grid: TokenGrid, visible: int) -> None:
        self.count = grid.num_tokens - visible

    def choose(self, hidden: Tensor, clocks: Tensor, importance: Tensor | None) -> Targets:
        """Choose without noise and without importance."""
        # A stable sort of the flag alone keeps hidden tokens first and in order; no shape depends on the data.
        return Targets((~hidden).byte().argsort(dim=1, stable=True)[:, : self.count])
