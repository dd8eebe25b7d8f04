"""Error of each predicted token: the loss, and the raw material of every sampler's reward."""

from torch import Tensor


def token_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return each token's mean squared error, ``[batch, target]`` float32, of ``[batch, target, pixels]`` inputs."""
    return (prediction.float() - target).square().mean(-1)


def weighted_mean(error: Tensor, weight: Tensor) -> Tensor:
    """Return each clip's mean error over the targets that count, ``[batch]``."""
    return (error * weight).sum(1) / weight.sum(1)
