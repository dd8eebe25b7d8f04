"""Every n-th time slot is predicted: the "uniform" decoder mask of arXiv 2411.13683, section 4.2.

What the paper leaves open: the slot at which a clip begins is drawn, and the slots are brought to the exact budget,
which is that of the other rules, by leaving out random tokens of them or adding random tokens of the other slots.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tats_ray.geometry import TokenGrid
from tats_ray.masking.targets import Mode, Targets, candidates, check_budget, share_count, uniform_integer


class UniformSlicesConfig(BaseModel):
    """Targets from every n-th time slot."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["uniform-slices"] = "uniform-slices"
    """Rule by which the targets are chosen."""
    every: int = Field(default=7, ge=2)
    """Time slots from one predicted slot to the next; at most those of a clip."""
    share: float = Field(default=0.15, gt=0, le=1)
    """Targets as a share of all tokens, rounded down."""
    mode: Mode = "disjoint"
    """From the hidden tokens (disjoint), or from all, where visible ones do not count (overlap)."""


class UniformSlices:
    """``count`` tokens, those of every ``every``-th slot first."""

    draws = True

    def __init__(self, config: UniformSlicesConfig, *, grid: TokenGrid, visible: int) -> None:
        if config.every > grid.time:
            raise ValueError(
                f"masking.target.every must be at most the {grid.time} time slots of a clip, got {config.every}: some "
                f"clips would have no slot to predict"
            )
        self.grid = grid
        self.every = config.every
        self.mode: Mode = config.mode
        self.count = share_count(grid, config.share, name="share")
        check_budget(self.count, grid=grid, visible=visible, mode=config.mode)

    def choose(self, hidden: Tensor, clocks: Tensor, importance: Tensor | None) -> Targets:
        """Choose without importance; the last clock draws the slot at which a clip begins."""
        among = candidates(hidden, self.mode)
        token = torch.arange(self.grid.num_tokens, device=hidden.device)
        phase = token // self.grid.slot_tokens % self.every
        begin = uniform_integer(clocks[:, -1:], below=self.every)
        level = torch.where(among, (phase != begin).byte(), 2)
        order = clocks[:, :-1].argsort(dim=1)
        # A stable sort of the level alone keeps the order of the clocks within each.
        idx = order.gather(1, level.gather(1, order).argsort(dim=1, stable=True)[:, : self.count])
        return Targets(idx, self._chance(among, phase).gather(1, phase[idx]))

    def _chance(self, among: Tensor, phase: Tensor) -> Tensor:
        """Return the chance of a candidate of each phase, over where a clip begins and what is left out or added."""
        size = torch.zeros(len(among), self.every, device=among.device)  # candidates of each phase, [batch, every]
        size.index_add_(1, phase, among.float())
        within = (self.count / size).clamp(max=1)
        others = size.sum(1, keepdim=True) - size
        added = (self.count - size).clamp(min=0) / others.clamp(min=1)
        return (within + added.sum(1, keepdim=True) - added) / self.every
