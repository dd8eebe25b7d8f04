"""Rules that do not look at the clip: random tokens, and random tubes (Tong et al. 2022, arXiv 2203.12602)."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from tats_ray.geometry import TokenGrid


class RandomConfig(BaseModel):
    """Visible tokens drawn uniformly over space and time."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["random"] = "random"
    """Strategy by which the visible tokens are chosen."""


class TubeConfig(BaseModel):
    """The same random sites visible in every time slot."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["tube"] = "tube"
    """Strategy by which the visible tokens are chosen."""


def random_tokens(clocks: Tensor, *, count: int) -> Tensor:
    """Return the ``count`` tokens whose clocks ring first, ``[batch, count]``, in that order."""
    return clocks.topk(count, dim=1, largest=False, sorted=True).indices


def random_tubes(clocks: Tensor, *, sites: int, grid: TokenGrid) -> Tensor:
    """Return ``sites`` random sites in every time slot, ``[batch, sites * time]``.

    Only the first slot's clocks are used.
    """
    chosen = random_tokens(clocks[:, : grid.slot_tokens], count=sites)
    slots = torch.arange(grid.time, device=clocks.device) * grid.slot_tokens
    return (slots[None, :, None] + chosen[:, None, :]).flatten(1)
