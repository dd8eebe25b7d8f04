"""Give every feature mean 0 and deviation 1 over the training rows.

MAE's linear probe does this by BatchNorm without affine parameters (He et al. 2022, arXiv 2111.06377, appendix A.1):
encoders whose features differ in scale then meet the same learning rate and the same penalty. Here the statistics are
exact ones of the whole training set, so that no number depends on how batches fall.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK_VALUES = 2**24
_FLOAT32_NOISE = 1e-6  # relative; a feature that varies less is constant as far as float32 can tell


@dataclass(frozen=True)
class Standardizer:
    """Mean and scale of each feature, float64 ``[features]``; the scale of a constant feature is 0."""

    mean: Tensor
    scale: Tensor

    def __call__(self, features: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Standardise ``[..., features]``; a feature that is constant in training becomes 0 whatever it is here."""
        wide = features.to(dtype)
        return (wide - self.mean.to(wide)) * self.scale.to(wide)


def fit_standardizer(features: Tensor) -> Standardizer:
    """Take the statistics of features ``[rows, ..., features]`` of any floating-point type, in bounded memory."""
    chunk = max(1, _CHUNK_VALUES // features[0].numel())
    parts = [part.flatten(0, -2) for part in features.split(chunk)]
    count = sum(len(part) for part in parts)
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / count
    variance = torch.stack([(part.double() - mean).square().sum(0) for part in parts]).sum(0) / count
    largest = torch.stack([part.abs().amax(0) for part in parts]).amax(0).double()
    std = variance.sqrt()
    varies = std > _FLOAT32_NOISE * largest
    return Standardizer(mean=mean, scale=torch.where(varies, 1 / std, 0.0))
