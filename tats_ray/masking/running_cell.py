"""Running cell: the decoder mask of VideoMAE V2 (Wang et al. 2023, arXiv 2303.16727, section 3.2).

Sites are cut into cells of two by two. In each time slot the decoder predicts the same places of every cell, and from
slot to slot they run on by one, so that over four slots every site is predicted equally often::

    per_cell=2, one cell in five successive slots, x predicted:

    x x    . x    . .    x .    x x
    . .    x .    x x    . x    . .

Places are counted row by row; the one at which a clip begins is drawn.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tats_ray.geometry import TokenGrid
from tats_ray.masking.targets import Targets, check_budget, uniform_integer

PLACES = 4


class RunningCellConfig(BaseModel):
    """Targets by VideoMAE V2's running cells, whether they are hidden or not."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["running-cell"] = "running-cell"
    """Rule by which the targets are chosen."""
    per_cell: int = Field(default=2, ge=1, le=3)
    """Tokens that are predicted of each cell of 2 x 2 sites."""


class RunningCell:
    """``per_cell`` of four sites in every slot, running on by one a slot."""

    draws = True

    def __init__(self, config: RunningCellConfig, *, grid: TokenGrid, visible: int) -> None:
        if grid.height % 2 or grid.width % 2:
            raise ValueError(
                f"masking.target.kind=running-cell cuts sites into cells of 2 x 2 and needs even rows and columns, got "
                f"{grid.height} x {grid.width}; change data.crop_size or model.patch_size, or take "
                f"masking.target.kind=random-share"
            )
        self.grid = grid
        self.per_cell = config.per_cell
        self.count = grid.num_tokens // PLACES * config.per_cell
        check_budget(self.count, grid=grid, visible=visible, mode="overlap")

    def choose(self, hidden: Tensor, clocks: Tensor, importance: Tensor | None) -> Targets:
        """Choose without sight of anything; the last clock draws where a clip begins."""
        phase = uniform_integer(clocks[:, -1:], below=PLACES)
        token = torch.arange(self.grid.num_tokens, device=hidden.device)
        slot, site = token // self.grid.slot_tokens, token % self.grid.slot_tokens
        place = 2 * (site // self.grid.width % 2) + site % self.grid.width % 2
        left_out = (place - slot + phase) % PLACES >= self.per_cell
        idx = left_out.byte().argsort(dim=1, stable=True)[:, : self.count]
        return Targets(idx, torch.full(idx.shape, self.per_cell / PLACES, device=idx.device))
