"""The most important tokens are predicted, and a random share of the others: LVMAE (arXiv 2411.13683, section 3.2).

The random share keeps the decoder from predicting salient tokens alone, and tells how the others fare: with it the mean
over all hidden tokens can be estimated without bias, and so can what a sampler learns from.

What the paper leaves open: importance is ranked over the whole clip, or in each window for itself where windows are
asked for; the random share comes from what is not among the most important, and is drawn anew each step.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tats_ray.geometry import TokenGrid
from tats_ray.masking.targets import Mode, Targets, candidates, check_budget, earliest, share_count


class ImportantConfig(BaseModel):
    """Targets by importance (``masking.importance``), and a random share of the other tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["important"] = "important"
    """Rule by which the targets are chosen."""
    top_share: float = Field(default=0.1, gt=0, le=1)
    """The most important tokens, as a share of all tokens, rounded down."""
    random_share: float = Field(default=0.05, ge=0, le=1)
    """Random ones of the others, as a share of all tokens, rounded down; a learned sampler needs some."""
    windows: int = Field(default=1, ge=1)
    """Windows of successive time slots, equally long, of which each gives as many of the most important tokens, its
    share rounded down; 1 ranks over the whole clip."""
    mode: Mode = "disjoint"
    """From the hidden tokens (disjoint), or from all, where visible ones do not count (overlap)."""


class Important:
    """The ``top`` tokens of highest importance, and ``random`` of the others; equals are taken in the grid's order."""

    draws = True

    def __init__(self, config: ImportantConfig, *, grid: TokenGrid, visible: int) -> None:
        self.mode: Mode = config.mode
        window = _window(grid, config.windows)
        self.windows = config.windows
        self.top = config.windows * share_count(window, config.top_share, name="top_share")
        self.random = share_count(grid, config.random_share, name="random_share") if config.random_share else 0
        self.count = self.top + self.random
        check_budget(self.count, grid=grid, visible=visible, mode=config.mode)
        hidden = window.num_tokens - (visible if config.mode == "disjoint" else 0)
        if config.windows > 1 and self.top > config.windows * hidden:
            raise ValueError(
                f"masking.target.windows={config.windows} takes {self.top // config.windows} hidden tokens of each "
                f"window, where {max(0, hidden)} of {window.num_tokens} are sure to be hidden; take fewer windows, a "
                f"smaller masking.target.top_share, or masking.target.mode=overlap"
            )
        others = grid.num_tokens - (visible if config.mode == "disjoint" else 0) - self.top
        self.chance = self.random / max(others, 1)

    def choose(self, hidden: Tensor, clocks: Tensor, importance: Tensor | None) -> Targets:
        """Choose the most important first, then the others' random share."""
        if importance is None:
            raise ValueError("importance is None: masking.target.kind=important needs a number for every token")
        among = candidates(hidden, self.mode)
        top = self._most_important(importance, among)
        others = among.scatter(1, top, False)
        drawn = earliest(clocks[:, :-1], others, count=self.random)
        chance = torch.ones(len(top), self.count, device=top.device)
        chance[:, self.top :] = self.chance
        return Targets(torch.cat([top, drawn], dim=1), chance)

    def _most_important(self, importance: Tensor, among: Tensor) -> Tensor:
        """Return as many of the most important tokens of every window."""
        rows, size = len(importance), importance.shape[1] // self.windows
        within = most_important(
            importance.reshape(-1, size), among.reshape(-1, size), count=self.top // self.windows
        ).reshape(rows, self.windows, -1)
        first = torch.arange(0, importance.shape[1], size, device=within.device)
        return (within + first[:, None]).flatten(1)


def _window(grid: TokenGrid, windows: int) -> TokenGrid:
    """Return the tokens of one of so many windows.

    Raises:
        ValueError: They do not divide the time slots.
    """
    if grid.time % windows:
        fitting = [str(number) for number in range(1, grid.time + 1) if grid.time % number == 0]
        raise ValueError(
            f"masking.target.windows must divide the clip's {grid.time} time slots, got {windows}; choose one of "
            f"{', '.join(fitting)}"
        )
    return TokenGrid(grid.time // windows, grid.height, grid.width)


def most_important(importance: Tensor, among: Tensor, *, count: int) -> Tensor:
    """Return the ``count`` tokens of ``among`` of highest importance, those of equal importance in the grid's order.

    Args:
        importance: ``[batch, tokens]``.
        among: bool ``[batch, tokens]``, at least ``count`` in every row.
        count: Tokens of each clip.

    Raises:
        ValueError: An importance is not a finite number.
    """
    if not importance.isfinite().all():
        wrong = int((~importance.isfinite()).sum())
        raise ValueError(
            f"importance must be finite, got {wrong} of {importance.numel()} numbers that are NaN or infinite; the "
            f"network or the cache that it comes from is damaged"
        )
    return importance.masked_fill(~among, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :count]
