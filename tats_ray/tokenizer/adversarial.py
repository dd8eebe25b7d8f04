"""Losses beside the pixels: a discriminator of videos, and distances in a network that the user brings.

As in MAGVIT (Yu et al. 2023, arXiv 2212.05199): a 3-D discriminator in the manner of StyleGAN with non-saturating
losses and a penalty on its slope at real videos (R1, Mescheder et al. 2018, arXiv 1801.04406); and the distance of the
logits of a ResNet-50 at both videos, frame by frame.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, with which the perceptual network was trained."""
_SLOPE = 0.2
_MULTIPLIERS = (2, 4, 4, 4, 4)


class LossConfig(BaseModel):
    """What a reconstruction is judged by."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    pixel_weight: float = Field(default=1.0, gt=0)
    """Of the mean squared error of the pixels."""
    adversarial_weight: float = Field(default=0.0, ge=0)
    """Of the discriminator's verdict, MAGVIT's is 0.1; 0 trains no discriminator."""
    adversarial_from: float = Field(default=0.0, ge=0, lt=1)
    """Share of the run after which the discriminator begins to learn and to judge."""
    discriminator_channels: int = Field(default=64, ge=1)
    """Channels of the discriminator's first layer."""
    r1_weight: float = Field(default=10.0, ge=0)
    """Of the penalty on the discriminator's slope at real videos."""
    perceptual_weight: float = Field(default=0.0, ge=0)
    """Of the distance of a ResNet-50's logits, MAGVIT's is 0.1; 0 needs no such network."""
    perceptual_weights: str | None = None
    """File of torchvision's ResNet-50 weights (.pth or .safetensors) for the perceptual loss; never downloaded."""

    @model_validator(mode="after")
    def _weights_are_given(self) -> Self:
        if self.perceptual_weight and self.perceptual_weights is None:
            raise ValueError(
                f"losses.perceptual_weight={self.perceptual_weight:g} needs losses.perceptual_weights, a file of "
                f"torchvision's ResNet-50 weights; nothing is downloaded"
            )
        return self


class Discriminator(nn.Module):
    """Tells real videos from rebuilt ones: ``[batch, 3, frames, rows, columns]`` to logits ``[batch]``."""

    def __init__(self, *, channels: int, frames: int, side: int) -> None:
        """Take the first layer's channels and the size of the videos; blocks halve every length down to 1."""
        super().__init__()
        widths = [channels, *(channels * multiplier for multiplier in _MULTIPLIERS)]
        self.stem = nn.Conv3d(3, channels, 3, padding=1)
        blocks, size = [], (frames, side, side)
        for before, after in pairwise(widths):
            factor = (min(2, size[0]), min(2, size[1]), min(2, size[2]))
            blocks.append(_Halving(before, after, factor))
            size = (size[0] // factor[0], size[1] // factor[1], size[2] // factor[2])
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(widths[-1] * math.prod(size), widths[-1]),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(widths[-1], 1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits, positive for what is taken as real."""
        return self.head(self.blocks(F.leaky_relu(self.stem(pixels), _SLOPE))).float().squeeze(1)


class _Halving(nn.Module):
    def __init__(self, before: int, after: int, factor: tuple[int, int, int]) -> None:
        super().__init__()
        self.first = nn.Conv3d(before, after, 3, padding=1)
        self.pool = nn.AvgPool3d(factor)
        self.second = nn.Conv3d(after, after, 3, padding=1)
        self.shortcut = nn.Conv3d(before, after, 1, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        inner = F.leaky_relu(self.second(self.pool(F.leaky_relu(self.first(values), _SLOPE))), _SLOPE)
        return (inner + self.shortcut(self.pool(values))) / math.sqrt(2)


def generator_loss(rebuilt: Tensor) -> Tensor:
    """Return the non-saturating loss of each rebuilt video, ``[batch]``, for the discriminator's logits of them."""
    return F.softplus(-rebuilt)


def discriminator_loss(real: Tensor, rebuilt: Tensor) -> Tensor:
    """Return each clip's loss, ``[batch]``, for the logits of the real and the rebuilt video."""
    return F.softplus(-real) + F.softplus(rebuilt)


def slope_penalty(real: Tensor, pixels: Tensor) -> Tensor:
    """Return R1, half the squared norm of the slope of each logit in ``real`` at its video, ``[batch]``.

    Args:
        real: Logits ``[batch]``, computed from ``pixels``, each from its own video alone.
        pixels: Real videos that take a gradient.
    """
    (slope,) = torch.autograd.grad(real.sum(), pixels, create_graph=True)
    return slope.float().square().flatten(1).sum(1) / 2


class PerceptualDistance(nn.Module):
    """Squared distance of a frozen ResNet-50's logits, averaged over frames and logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Path) -> None:
        """Load the network.

        Raises:
            ValueError: The file is missing, or holds other weights.
        """
        super().__init__()
        self.network = resnet50(weights=None)
        try:
            self.network.load_state_dict(_read(weights))
        except (OSError, RuntimeError, SafetensorError) as error:
            first = str(error).strip().splitlines()[0]
            raise ValueError(
                f"losses.perceptual_weights={weights} cannot be used: {first}; give a file of torchvision's ResNet-50 "
                f"weights, or losses.perceptual_weight=0"
            ) from error
        self.network.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    def forward(self, rebuilt: Tensor, real: Tensor) -> Tensor:
        """Return the distance of each pair, ``[batch]``, of pixels ``[batch, 3, frames, rows, columns]`` in [0, 1]."""
        gap = self._logits(rebuilt) - self._logits(real)
        return gap.float().square().mean(1).unflatten(0, (len(real), -1)).mean(1)

    def _logits(self, pixels: Tensor) -> Tensor:
        return self.network((pixels.transpose(1, 2).flatten(0, 1) - self.mean) / self.std)


def _read(weights: Path) -> Mapping[str, Tensor]:
    if weights.suffix == ".safetensors":
        return load_file(weights)
    return torch.load(weights, map_location="cpu", weights_only=True)
