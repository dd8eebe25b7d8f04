"""Error of each predicted token: the loss, and the raw material of every sampler's reward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def token_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return each token's mean squared error, ``[batch, target]`` float32, of ``[batch, target, pixels]`` inputs.

    Args:
        prediction: With gradient.
        target: float32; no gradient reaches it.
    """
    return _TokenError.apply(prediction, target)  # pyright: ignore[reportReturnType]


def weighted_mean(error: Tensor, weight: Tensor) -> Tensor:
    """Return each clip's mean error over the targets that count, ``[batch]``."""
    return (error * weight).sum(1) / weight.sum(1)


class _TokenError(torch.autograd.Function):
    """``(prediction - target).square().mean(-1)`` in two passes over the pixels forward and one backward.

    Composed of torch's functions it takes nine, each of them a trip to memory: the largest tensors of a step are here.
    """

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor) -> Tensor:
        gap = prediction.float() - target
        ctx.save_for_backward(gap)
        ctx.dtype = prediction.dtype
        return torch.linalg.vector_norm(gap, dim=-1).square() / gap.shape[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gap,) = ctx.saved_tensors
        slope = grad_outputs[0] * (2 / gap.shape[-1])
        return (gap * slope.unsqueeze(-1)).to(ctx.dtype), None
