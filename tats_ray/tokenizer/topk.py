"""The k best-scored tokens of a clip, as a mask that can be learnt through.

Forward it is the plain top-k, so that training and use agree; backward it is the gradient of the smoothed one,
``y(s) = E[top-k(s + sigma Z)]`` with Z normal (Cordonnier et al. 2021, arXiv 2104.03059), here without an order among
the k. Its vector-Jacobian product is the covariance ``Cov(<g, y(Z)>, Z) / sigma``. The mean of ``<g, y>`` must be taken
off: exactly k tokens are kept whatever Z, so any constant in ``g`` would otherwise be noise in proportion to k.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK = 64
"""Samples that are held in memory at once."""


def top_k(scores: Tensor, k: int) -> Tensor:
    """Return 1 for the ``k`` highest of each row, 0 for the others, float32 ``[batch, tokens]``; ties go to the first.

    Raises:
        ValueError: ``k`` is not in 1 to tokens, or a score is NaN.
    """
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k must be in 1 to {scores.shape[1]} tokens, got {k}")
    if bool(scores.isnan().any()):
        raise ValueError("scores must not be NaN: no token is best among them; the network that made them has diverged")
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros(scores.shape, device=scores.device).scatter_(1, best, 1.0)


def perturbed_top_k(scores: Tensor, k: int, *, sigma: float, samples: int) -> Tensor:
    """Return :func:`top_k`, whose gradient is that of the smoothed top-k, estimated.

    The noise is a function of torch's global generator at the time of the call.

    Args:
        scores: ``[batch, tokens]``; +inf is always kept and takes no gradient.
        k: Tokens kept.
        sigma: Standard deviation of the noise, in units of the scores.
        samples: Draws of the noise, at least 2.

    Raises:
        ValueError: As :func:`top_k`; or sigma is not positive, or there are too few samples.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}: a covariance has no single sample")
    return _PerturbedTopK.apply(scores, k, sigma, samples)  # pyright: ignore[reportReturnType]


def unit_range(scores: Tensor) -> Tensor:
    """Scale the scores of each row to [0, 1], so that one sigma fits all clips; +inf stays, one at least is finite."""
    always = scores == torch.inf
    low = scores.amin(1, keepdim=True)
    high = scores.masked_fill(always, -torch.inf).amax(1, keepdim=True)
    scaled = (torch.where(always, low, scores) - low) / (high - low + 1e-5)
    return scaled.masked_fill(always, torch.inf)


class _PerturbedTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int, sigma: float, samples: int) -> Tensor:
        ctx.save_for_backward(scores)
        ctx.k, ctx.sigma, ctx.samples = k, sigma, samples
        ctx.seed = int(torch.randint(2**62, ()))  # the noise itself is drawn when it is needed, and never kept
        return top_k(scores, k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (scores,) = ctx.saved_tensors
        grad = grad_outputs[0].float()
        generator = torch.Generator(scores.device).manual_seed(ctx.seed)
        gains, noises, products = torch.zeros(len(scores), 1, device=scores.device), 0.0, 0.0
        for start in range(0, ctx.samples, _CHUNK):
            shape = (min(_CHUNK, ctx.samples - start), *scores.shape)
            noise = torch.randn(shape, generator=generator, device=scores.device)
            best = (scores.float() + ctx.sigma * noise).topk(ctx.k, dim=2, sorted=False).indices
            gain = grad.expand(shape).gather(2, best).sum(2, keepdim=True)  # <g, y>, [samples, batch, 1]
            gains = gains + gain.sum(0)
            noises = noises + noise.sum(0)
            products = products + (gain * noise).sum(0)
        covariance = (products - gains / ctx.samples * noises) / (ctx.samples - 1)
        slope = (covariance / ctx.sigma).masked_fill(scores == torch.inf, 0.0)
        return slope.to(scores.dtype), None, None, None
