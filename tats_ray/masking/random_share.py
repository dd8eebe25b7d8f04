"""A random share of the tokens is predicted: the plain way to a smaller decoder, and the control of every other."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tats_ray.geometry import TokenGrid
from tats_ray.masking.targets import Mode, Targets, candidates, check_budget, earliest, share_count


class RandomShareConfig(BaseModel):
    """Targets drawn uniformly, new ones each step."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["random-share"] = "random-share"
    """Rule by which the targets are chosen."""
    share: float = Field(default=0.15, gt=0, le=1)
    """Targets as a share of all tokens, rounded down."""
    mode: Mode = "disjoint"
    """From the hidden tokens (disjoint), or from all, where visible ones do not count (overlap)."""


class RandomShare:
    """``count`` random tokens."""

    draws = True

    def __init__(self, config: RandomShareConfig, *, grid: TokenGrid, visible: int) -> None:
        self.mode: Mode = config.mode
        self.count = share_count(grid, config.share, name="share")
        check_budget(self.count, grid=grid, visible=visible, mode=config.mode)
        self.chance = self.count / (grid.num_tokens - (visible if config.mode == "disjoint" else 0))

    def choose(self, hidden: Tensor, clocks: Tensor, importance: Tensor | None) -> Targets:
        """Choose without importance."""
        idx = earliest(clocks[:, :-1], candidates(hidden, self.mode), count=self.count)
        return Targets(idx, torch.full(idx.shape, self.chance, device=idx.device))
