"""Visible tokens drawn by how much they move, read off the pixels: no parameters, no learning.

The control of every learned sampler: what it finds without being told what motion is, this rule is given. With a
``lift`` of 1.5, 2 or 3 it also asks how strong a preference for motion is of use at all.
"""

from typing import Literal

import torch
from einops import rearrange
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tats_ray.geometry import TokenGrid
from tats_ray.masking.draws import Scores
from tats_ray.masking.motion import byte_difference

MOST_WEIGHT = 0.999
"""Of the amounts: with a trace of uniform drawing, a clip with fewer moving tokens than are drawn has no ties."""


class FrameDifferenceConfig(BaseModel):
    """Visible tokens drawn by their frame difference, mixed with uniform drawing."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["frame-difference"] = "frame-difference"
    """Strategy by which the visible tokens are chosen."""
    lift: float = Field(default=2.0, gt=1, le=100)
    """How many times as much frame difference is drawn as by uniform drawing; where motion is spread too evenly for
    that, tokens are drawn in proportion to it."""


class FrameDifferenceScorer:
    """Scores patches by their frame difference; a still clip is drawn uniformly."""

    def __init__(self, config: FrameDifferenceConfig, *, grid: TokenGrid, tubelet_size: int) -> None:
        self.lift = config.lift
        self.grid = grid
        self.tubelet_size = tubelet_size

    def __call__(self, patches: Tensor) -> Scores:
        """Score every token of uint8 ``patches``, ``[batch, tokens, pixels]``."""
        amount = patch_frame_difference(patches, self.grid, tubelet_size=self.tubelet_size)
        return Scores(logits=tilted_log_prob(amount, lift=self.lift))


def patch_frame_difference(patches: Tensor, grid: TokenGrid, *, tubelet_size: int) -> Tensor:
    """Return what :func:`tats_ray.masking.motion.frame_difference` does, from patches, ``[batch, tokens]``."""
    # Differences where patches lie: to put them in the order of time is a copy that takes longer than all the rest.
    frames = rearrange(patches, "b (t s) (f x) -> b t s f x", t=grid.time, f=tubelet_size)
    inside = byte_difference(frames[:, :, :, 1:], frames[:, :, :, :-1]).float().mean(4)
    across = byte_difference(frames[:, 1:, :, 0], frames[:, :-1, :, -1]).float().mean(3)
    first = inside[:, :1, :, 0] if tubelet_size > 1 else across[:, :1]
    change = torch.cat([torch.cat([first, across], dim=1)[..., None], inside], dim=3)
    return change.mean(3).flatten(1) / 255


def tilted_log_prob(amount: Tensor, *, lift: float) -> Tensor:
    """Return the mixture of uniform and ``p ~ amount`` that draws ``lift`` times the amount of uniform drawing.

    The lift of ``p ~ amount`` itself is ``N sum a^2 / (sum a)^2``, that of uniform drawing 1, and a mixture's lies
    linearly between. It is at most the former's.

    Args:
        amount: ``[batch, tokens]``, not negative; rows without any give the uniform distribution.
        lift: At least 1.

    Returns:
        Log-probabilities, ``[batch, tokens]`` float32, all finite.
    """
    tokens = amount.shape[1]
    total = amount.sum(1, keepdim=True)
    share = torch.where(total > 0, amount / total, 1 / tokens)
    most = tokens * share.square().sum(1, keepdim=True)
    weight = ((lift - 1) / (most - 1).clamp_min(1e-6)).clamp(max=MOST_WEIGHT)
    return (weight * share + (1 - weight) / tokens).log()
