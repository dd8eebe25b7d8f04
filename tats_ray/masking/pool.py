"""EVEREST (Hwang et al. 2022, arXiv 2211.10636): visible tokens and targets from one pool, the rest is left out.

The pool holds the tokens of highest importance, in the paper those whose embedding differs most from that of the slot
before. Random ones of the pool are visible, the others are the targets: both sets are planned at once.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tats_ray.geometry import TokenGrid
from tats_ray.masking.draws import Scores
from tats_ray.masking.fixed import random_tokens
from tats_ray.masking.important import most_important
from tats_ray.masking.plan import Draw
from tats_ray.masking.targets import ROUNDING, Targets


class PoolConfig(BaseModel):
    """Visible tokens drawn uniformly from the pool of the most important ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["pool"] = "pool"
    """Strategy by which the visible tokens are chosen."""
    share: float = Field(default=0.3, gt=0, le=1)
    """Tokens in the pool as a share of all tokens, rounded down; more than are visible."""


class PoolRestConfig(BaseModel):
    """The tokens of the pool that are not visible; goes with ``masking.visible.kind=pool``."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["pool-rest"] = "pool-rest"
    """Rule by which the targets are chosen."""


class PoolRule:
    """``count`` random tokens of the pool."""

    def __init__(self, config: PoolConfig, *, grid: TokenGrid, count: int) -> None:
        self.count = count
        self.pool = int(grid.num_tokens * config.share + ROUNDING)
        if self.pool <= count:
            raise ValueError(
                f"masking.visible.share must make a pool of more tokens than the {count} visible ones, got "
                f"{config.share}, which is {self.pool} of {grid.num_tokens}; raise it or masking.mask_ratio"
            )

    def choose(
        self, scores: Scores | None, clocks: Tensor, importance: Tensor | None = None
    ) -> tuple[Tensor, Draw | None]:
        """Choose by importance, then without looking at the clip."""
        if importance is None:
            raise ValueError("importance is None: masking.visible.kind=pool needs a number for every token")
        pool = most_important(importance, torch.ones_like(importance, dtype=torch.bool), count=self.pool)
        return pool.gather(1, random_tokens(clocks.gather(1, pool), count=self.count)), None


class PoolRest:
    """What is left of the pool: the most important hidden tokens, since all visible ones are of the pool."""

    draws = False

    def __init__(self, rule: PoolRule) -> None:
        self.count = rule.pool - rule.count

    def choose(self, hidden: Tensor, clocks: Tensor, importance: Tensor | None) -> Targets:
        """Choose by importance alone."""
        if importance is None:
            raise ValueError("importance is None: masking.target.kind=pool-rest needs a number for every token")
        return Targets(most_important(importance, hidden, count=self.count))
