"""A 3-D convolutional encoder and decoder in the manner of MAGVIT (Yu et al. 2023, arXiv 2212.05199).

Two residual blocks a stage, average pooling down, nearest neighbours and a convolution up, GroupNorm and swish; zeros
beyond the borders, and no causality in time. MAGVIT halves 16 x 128^2 to 4 x 16 x 16; here four halvings of rows and
columns and one of time, at the first transition, give a latent for 2 x 16 x 16 pixels: a token of the masked
autoencoder.

Three things are not MAGVIT's. Beside the convolutions a linear map leads from the pixels of a latent to it, and back:
what a linear autoencoder knows, which is much, is learnt in a few steps. The decoder's first kernels are as long as the
window, for a latent that was dropped is like the last one that was kept, however long ago that was. And small models
may begin with blocks of pixels (``stem_halvings``).
"""

import math
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

_GROUPS = 32
"""Most groups of a GroupNorm; each has two channels at least, or a channel's own mean could not pass."""

_GREY, _CONTRAST = 0.5, 4.0
"""Of pixels in [0, 1]: taken off them, and multiplied with, which makes clips about zero mean and unit variance."""
_FAINT = 0.01
"""Of an ordinary initialisation is the last one's: not zero, so that everything learns from the first step."""


class AutoencoderConfig(BaseModel):
    """Shape of encoder and decoder."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    base_channels: int = Field(default=64, ge=1)
    """Channels of the first stage, at full resolution."""
    channel_multipliers: tuple[int, ...] = Field(default=(1, 2, 2, 4, 4), min_length=1)
    """Channels of each stage as multiples of base_channels; between two stages height and width are halved."""
    stem_halvings: int = Field(default=0, ge=0)
    """Halvings of height and width before the first stage, which blocks of pixels as channels make; 0 is MAGVIT's. At
    full resolution a small model spends nearly all of its time on few channels."""
    temporal_halvings: int = Field(default=1, ge=0)
    """Transitions, from the first on, at which the frames are halved as well; a stem that halves is one of them."""
    residual_blocks: int = Field(default=2, ge=1)
    """Residual blocks of each stage."""

    @model_validator(mode="after")
    def _halves_where_it_can(self) -> Self:
        if min(self.channel_multipliers) < 1:
            raise ValueError(f"channel_multipliers must be at least 1, got {list(self.channel_multipliers)}")
        transitions = len(self.channel_multipliers) - 1 + (self.stem_halvings > 0)
        if self.temporal_halvings > transitions:
            raise ValueError(
                f"temporal_halvings must be at most the transitions between stages, got {self.temporal_halvings} and "
                f"{transitions}; give channel_multipliers more stages"
            )
        return self

    @property
    def tubelet_size(self) -> int:
        """Frames of one latent."""
        return 2**self.temporal_halvings

    @property
    def patch_size(self) -> int:
        """Pixels of a latent's side."""
        return 2 ** (self.stem_halvings + len(self.channel_multipliers) - 1)

    @property
    def block(self) -> tuple[int, int, int]:
        """Frames, rows and columns of a latent."""
        return self.tubelet_size, self.patch_size, self.patch_size

    @property
    def channels(self) -> list[int]:
        """Channels of each stage, from pixels to latents."""
        return [self.base_channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def stem(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the blocks of pixels that the first stage sees."""
        side = 2**self.stem_halvings
        return (2 if side > 1 and self.temporal_halvings else 1, side, side)

    def factor(self, transition: int) -> tuple[int, int, int]:
        """Return how far a transition between stages, counted from the pixels, shrinks time, height and width."""
        return (2 if transition < self.temporal_halvings - (self.stem[0] - 1) else 1, 2, 2)


def fold(values: Tensor, block: tuple[int, int, int]) -> Tensor:
    """Lay blocks of frames, rows and columns of ``[batch, channels, frames, rows, columns]`` into the channels."""
    for dim, size in zip((2, 4, 6), block, strict=True):
        values = values.unflatten(dim, (-1, size))
    return values.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def unfold(values: Tensor, block: tuple[int, int, int]) -> Tensor:
    """Do the inverse of :func:`fold`."""
    values = values.unflatten(1, (-1, *block)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return values.flatten(6, 7).flatten(4, 5).flatten(2, 3)


class Encoder(nn.Module):
    """Pixels ``[batch, 3, frames, rows, columns]`` to latents ``[batch, dim, time, height, width]``."""

    def __init__(self, config: AutoencoderConfig, *, dim: int) -> None:
        super().__init__()
        channels = config.channels
        self.block = config.stem
        self.stem = nn.Conv3d(3 * math.prod(self.block), channels[0], 3, padding=1)
        stages: list[nn.Module] = []
        for stage, (before, after) in enumerate(zip([channels[0], *channels], channels, strict=False)):
            stages.append(_blocks(before, after, count=config.residual_blocks))
            if stage < len(channels) - 1:
                stages.append(nn.AvgPool3d(config.factor(stage)))
        self.stages = nn.Sequential(*stages, _blocks(channels[-1], channels[-1], count=config.residual_blocks))
        self.head = nn.Sequential(_norm(channels[-1]), nn.SiLU(), nn.Conv3d(channels[-1], dim, 1))
        self.straight = nn.Conv3d(3, dim, config.block, config.block)
        self.apply(_initialise)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the latents."""
        pixels = (pixels - _GREY) * _CONTRAST
        return self.head(self.stages(self.stem(fold(pixels, self.block)))) + self.straight(pixels)


class Decoder(nn.Module):
    """Latents ``[batch, dim, time, height, width]`` back to pixels ``[batch, 3, frames, rows, columns]``."""

    def __init__(self, config: AutoencoderConfig, *, dim: int, slices: int) -> None:
        """Take the dimensions of a latent and the slices of a window."""
        super().__init__()
        channels, reach = config.channels[::-1], slices - 1
        self.blocks = config.stem, config.block
        self.stem = nn.Conv3d(dim, channels[0], (2 * reach + 1, 3, 3), padding=(reach, 1, 1))
        stages: list[nn.Module] = [_blocks(channels[0], channels[0], count=config.residual_blocks)]
        for stage, (before, after) in enumerate(zip([channels[0], *channels], channels, strict=False)):
            stages.append(_blocks(before, after, count=config.residual_blocks))
            if stage < len(channels) - 1:
                stages.append(_Enlarge(after, config.factor(len(channels) - 2 - stage)))
        self.stages = nn.Sequential(*stages)
        last = nn.Conv3d(channels[-1], 3 * math.prod(config.stem), 3, padding=1)
        self.head = nn.Sequential(_norm(channels[-1]), nn.SiLU(), last)
        self.straight = nn.Conv3d(
            dim, 3 * math.prod(config.block), (2 * reach + 1, 1, 1), padding=(reach, 0, 0), bias=False
        )
        self.apply(_initialise)
        with torch.no_grad():  # grey at first: to unlearn noise as strong as the pixels takes longer than to learn
            last.weight.mul_(_FAINT)
            self.straight.weight.mul_(_FAINT)

    def forward(self, latents: Tensor) -> Tensor:
        """Return pixels, whose range is learnt and not enforced."""
        stem, block = self.blocks
        pixels = unfold(self.head(self.stages(self.stem(latents))), stem) + unfold(self.straight(latents), block)
        return pixels / _CONTRAST + _GREY


class _Residual(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            _norm(before),
            nn.SiLU(),
            nn.Conv3d(before, after, 3, padding=1, bias=False),
            _norm(after),
            nn.SiLU(),
            nn.Conv3d(after, after, 3, padding=1, bias=False),
        )
        self.shortcut = nn.Identity() if before == after else nn.Conv3d(before, after, 1, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        return self.shortcut(values) + self.block(values)


class _Enlarge(nn.Module):
    def __init__(self, channels: int, factor: tuple[int, int, int]) -> None:
        super().__init__()
        self.factor = factor
        self.convolve = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        return self.convolve(F.interpolate(values, scale_factor=self.factor, mode="nearest"))


def _blocks(before: int, after: int, *, count: int) -> nn.Sequential:
    return nn.Sequential(_Residual(before, after), *(_Residual(after, after) for _ in range(count - 1)))


def _initialise(module: nn.Module) -> None:
    """Keep the variance of what passes (He et al. 2015); torch's own initialisation has a sixth of that variance."""
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_GROUPS, max(1, channels // 2)), channels)
