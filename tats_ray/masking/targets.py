"""What a target rule is: which tokens the decoder predicts, chosen with sight of the hidden ones.

A rule in ``disjoint`` mode takes hidden tokens only. In ``overlap`` mode it does not look at what is hidden, as the
published codes do: a target that the encoder sees is predicted all the same, and counts nothing.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from tats_ray.geometry import TokenGrid

ROUNDING = 1e-9
"""Added before rounding down, so that 0.9 of 1,000 tokens leaves 100 and not 99."""

Mode = Literal["overlap", "disjoint"]


@dataclass(frozen=True)
class Targets:
    """What a rule chose, and how probable that was."""

    idx: Tensor  # [batch, count], int64: distinct, in any order
    decode_chance: Tensor | None = None  # [batch, count], float32: chance to be chosen when hidden; None is 1


class TargetRule(Protocol):
    """Chooses the targets of a batch."""

    count: int
    draws: bool
    """Whether it takes noise."""

    def choose(self, hidden: Tensor, clocks: Tensor, importance: Tensor | None) -> Targets:
        """Return ``count`` targets a clip.

        Args:
            hidden: bool ``[batch, tokens]``, as many in every row.
            clocks: ``[batch, tokens + 1]``, unit-rate exponential noise that the visible tokens were not drawn with:
                one for each token, the last for what is drawn once a clip.
            importance: float32 ``[batch, tokens]``; None where nothing ranks the tokens.
        """
        ...


def candidates(hidden: Tensor, mode: Mode) -> Tensor:
    """Return which tokens a rule may take, bool ``[batch, tokens]``."""
    return hidden if mode == "disjoint" else torch.ones_like(hidden)


def earliest(clocks: Tensor, among: Tensor, *, count: int) -> Tensor:
    """Return the ``count`` tokens of ``among``, bool ``[batch, tokens]``, whose clocks ring first."""
    return clocks.masked_fill(~among, torch.inf).topk(count, dim=1, largest=False).indices


def uniform_integer(clocks: Tensor, *, below: int) -> Tensor:
    """Return int64 numbers from 0 to ``below - 1``, equally probable, one for each unit-rate clock."""
    return (-torch.expm1(-clocks) * below).long().clamp(max=below - 1)


def share_count(grid: TokenGrid, share: float, *, name: str) -> int:
    """Return how many tokens a share of all tokens is, rounded down.

    Raises:
        ValueError: Less than one.
    """
    count = math.floor(grid.num_tokens * share + ROUNDING)
    if count < 1:
        raise ValueError(
            f"masking.target.{name} must come to at least one token, got {share} of {grid.num_tokens}; choose "
            f"{math.ceil(1e6 / grid.num_tokens) / 1e6} or more"
        )
    return count


def check_budget(count: int, *, grid: TokenGrid, visible: int, mode: Mode) -> None:
    """Refuse budgets that do not fit.

    Raises:
        ValueError: More targets than there are tokens to choose from, or so few in overlap mode that all those of a
            clip could be visible, so that none would count.
    """
    tokens = grid.num_tokens if mode == "overlap" else grid.num_tokens - visible
    if count > tokens:
        where = "tokens" if mode == "overlap" else "hidden tokens"
        raise ValueError(
            f"masking.target takes {count} of {tokens} {where}; take a smaller share, or masking.target.kind=all-hidden"
        )
    if mode == "overlap" and count <= visible:
        raise ValueError(
            f"masking.target takes {count} tokens whether visible or not, and {visible} are visible, so that a clip "
            f"could be left without a target that counts; take more targets, raise masking.mask_ratio, or choose from "
            f"the hidden tokens with masking.target.mode=disjoint where the kind has it"
        )
