"""What a token's error is worth to the sampler: the error as it is, in pixels, or less where noise explains it."""

from typing import Literal, assert_never

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tats_ray.rl.rollout import LOG_WEIGHT_CAP


class RewardConfig(BaseModel):
    """What the sampler is taught to look for, and by which baseline."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    error: Literal["normalised", "raw", "noise-weighted"] = "normalised"
    """Of a patch normalised to unit variance; of raw pixels, which is large on contrast; or the former less where the
    patch varies no more than the noise does, which nothing can predict."""
    noise: float = Field(default=0.02, gt=0, lt=1)
    """Standard deviation of the noise for noise-weighted, of pixels in [0, 1]."""
    critic: Literal["trained", "constant"] = "trained"
    """Per-token critic, or one that expects the clip's mean of every token and never learns."""
    log_weight_cap: float = Field(default=LOG_WEIGHT_CAP, gt=0)
    """Largest log of an inverse hiding chance: bounds the variance that one improbable hidden token can bring."""


def reward_error(error: Tensor, patches: Tensor, config: RewardConfig, *, channels: int = 3) -> Tensor:
    """Return each token's error as the sampler is rewarded for it, ``[clips, target]``.

    A raw error is the normalised one times the patch's variance (mean over the channels: exact where they vary alike, a
    weighting by the mean where they do not). Noise-weighted is the normalised one times ``v / (v + noise^2)``, the
    share of the patch's variance that is not noise.

    Args:
        error: Mean squared error of normalised patches, ``[clips, target]``.
        patches: Pixels of the same tokens, uint8 ``[clips, target, pixels]``, channels last.
        config: Which.
        channels: Colour channels of a pixel.
    """
    match config.error:
        case "normalised":
            return error
        case "raw":
            return error * _variance(patches, channels=channels)
        case "noise-weighted":
            variance = _variance(patches, channels=channels)
            return error * variance / (variance + config.noise**2)
        case never:
            assert_never(never)


def _variance(patches: Tensor, *, channels: int) -> Tensor:
    """Return the unbiased variance of pixels in [0, 1], mean over the channels, ``[clips, target]``."""
    levels = patches.to(torch.float32).unflatten(-1, (-1, channels)) / 255
    return levels.var(-2).mean(-1)
