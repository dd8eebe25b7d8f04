"""How much each token moves, read off the pixels: no parameters, no learning."""

import torch
from torch import Tensor

from tats_ray.geometry import TokenGrid
from tats_ray.nn.patches import patchify


def frame_difference(video: Tensor, grid: TokenGrid) -> Tensor:
    """Return each token's mean absolute difference of successive frames, ``[batch, tokens]`` float32 in [0, 1].

    A frame is compared with the one before it, the first with the second.

    Args:
        video: uint8 ``[batch, frames, height, width, 3]`` of at least two frames.
        grid: How the clip is cut.
    """
    change = byte_difference(video[:, 1:], video[:, :-1])
    change = torch.cat([change[:, :1], change], dim=1)
    return patchify(change, grid).float().mean(2) / 255


def byte_difference(one: Tensor, other: Tensor) -> Tensor:
    """Return the absolute difference of two uint8 tensors, in uint8: no wider copies, which took most of the time."""
    return torch.maximum(one, other) - torch.minimum(one, other)


def lift(probability: Tensor, amount: Tensor) -> Tensor:
    """Return how much more of ``amount`` a policy draws than uniform drawing would, ``[batch]``; 1 is no preference.

    Args:
        probability: ``[batch, tokens]``, rows sum to 1.
        amount: ``[batch, tokens]``, not negative; clips without any get NaN.
    """
    return (probability * amount).sum(1) / amount.mean(1)
