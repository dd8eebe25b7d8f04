"""MaskPlanner: the visible rule first, then the targets with sight of it, composed into a MaskPlan.

A visible rule is a function of the scores (None when the rule has no scorer, or while its policy is off), of the clocks
and of the importance of the tokens (None where nothing ranks them).
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from tats_ray.geometry import TokenGrid
from tats_ray.masking.all_hidden import AllHidden
from tats_ray.masking.draws import Scores, draw_visible, uniform_log_prob
from tats_ray.masking.fixed import random_tokens, random_tubes
from tats_ray.masking.plan import Draw, MaskPlan
from tats_ray.masking.targets import ROUNDING, TargetRule


class VisibleRule(Protocol):
    """Chooses the visible tokens of a batch."""

    count: int

    def choose(
        self, scores: Scores | None, clocks: Tensor, importance: Tensor | None = None
    ) -> tuple[Tensor, Draw | None]:
        """Return visible tokens ``[batch, count]`` in any order, and how a policy drew them."""
        ...


class RandomRule:
    """``count`` tokens, uniformly."""

    def __init__(self, grid: TokenGrid, mask_ratio: float) -> None:
        self.count = visible_count(grid, mask_ratio)

    def choose(
        self, scores: Scores | None, clocks: Tensor, importance: Tensor | None = None
    ) -> tuple[Tensor, Draw | None]:
        """Choose without looking at the clip."""
        return random_tokens(clocks, count=self.count), None


class TubeRule:
    """The same sites in every slot; their number is rounded for a slot, so ``count`` differs a little from random's."""

    def __init__(self, grid: TokenGrid, mask_ratio: float) -> None:
        self.grid = grid
        self.sites = visible_sites(grid, mask_ratio)
        self.count = self.sites * grid.time

    def choose(
        self, scores: Scores | None, clocks: Tensor, importance: Tensor | None = None
    ) -> tuple[Tensor, Draw | None]:
        """Choose without looking at the clip."""
        return random_tubes(clocks, sites=self.sites, grid=self.grid), None


class PolicyRule:
    """``count`` tokens drawn from a scorer's policy; uniformly while there are no scores."""

    def __init__(self, grid: TokenGrid, mask_ratio: float) -> None:
        self.num_tokens = grid.num_tokens
        self.count = visible_count(grid, mask_ratio)

    def choose(
        self, scores: Scores | None, clocks: Tensor, importance: Tensor | None = None
    ) -> tuple[Tensor, Draw | None]:
        """Draw without replacement."""
        if scores is None:
            log_prob = uniform_log_prob(clocks.shape[0], self.num_tokens, clocks.device)
        else:
            log_prob = scores.log_prob
        draw = draw_visible(log_prob, clocks, count=self.count)
        return draw.order, draw


class MaskPlanner:
    """Plans both index sets of a batch; without a target rule, every hidden token is a target."""

    def __init__(self, rule: VisibleRule, grid: TokenGrid, target: TargetRule | None = None) -> None:
        self.rule = rule
        self.grid = grid
        self.target: TargetRule = target or AllHidden(grid=grid, visible=rule.count)

    def plan(
        self,
        scores: Scores | None,
        clocks: Tensor,
        *,
        importance: Tensor | None = None,
        target_clocks: Tensor | None = None,
    ) -> MaskPlan:
        """Choose the visible tokens, then the targets.

        Args:
            scores: Of this batch, or None.
            clocks: ``[batch, tokens]``, unit-rate exponential noise.
            importance: float32 ``[batch, tokens]``, or None.
            target_clocks: ``[batch, tokens + 1]``, other noise, for a target rule that draws.
        """
        visible_idx, draw = self.visible(scores, clocks, importance)
        hidden = torch.ones(clocks.shape, dtype=torch.bool, device=clocks.device).scatter_(1, visible_idx, False)
        if self.target.draws and target_clocks is None:
            raise ValueError("target_clocks is None, and the target rule draws; pass noise of [batch, tokens + 1]")
        targets = self.target.choose(hidden, clocks if target_clocks is None else target_clocks, importance)
        target_idx, order = targets.idx.sort(dim=1)
        return MaskPlan(
            visible_idx=visible_idx,
            target_idx=target_idx,
            target_weight=hidden.gather(1, target_idx).float(),
            draw=draw,
            decode_chance=None if targets.decode_chance is None else targets.decode_chance.gather(1, order),
        )

    def visible(self, scores: Scores | None, clocks: Tensor, importance: Tensor | None) -> tuple[Tensor, Draw | None]:
        """Choose the visible tokens alone, sorted; the arguments are those of :meth:`plan`."""
        chosen, draw = self.rule.choose(scores, clocks, importance)
        return chosen.sort(dim=1).values, draw


def visible_count(grid: TokenGrid, mask_ratio: float) -> int:
    """Return how many tokens of a clip stay visible, ``int(N (1 - mask_ratio))`` as AdaMAE counts.

    Raises:
        ValueError: No token would be visible, or none hidden.
    """
    tokens = grid.num_tokens
    visible = math.floor(tokens * (1 - mask_ratio) + ROUNDING)
    return _checked(visible, tokens, mask_ratio, "tokens")


def visible_sites(grid: TokenGrid, mask_ratio: float) -> int:
    """Return how many sites of a slot stay visible, ``S - int(S mask_ratio)`` as VideoMAE counts.

    Raises:
        ValueError: No site would be visible, or none hidden.
    """
    sites = grid.slot_tokens
    return _checked(sites - math.floor(sites * mask_ratio + ROUNDING), sites, mask_ratio, "sites of a time slot")


def _checked(visible: int, of: int, mask_ratio: float, what: str) -> int:
    if not 0 < visible < of:
        lowest, highest = math.ceil(1e4 / of) / 1e4, math.floor(1e4 - 1e4 / of) / 1e4  # rounded inwards: both work
        raise ValueError(
            f"masking.mask_ratio must leave both visible and hidden {what}, got {mask_ratio}, which leaves {visible} "
            f"of {of} visible; choose a value from {lowest} to {highest}"
        )
    return visible
