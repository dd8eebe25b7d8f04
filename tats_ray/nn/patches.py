"""From uint8 clips to patches, their targets and their tokens, and back.

A patch is the pixels of one tubelet, flattened in the order (frame, row, column, channel). A token is a patch after a
learned linear map. Targets follow VideoMAE (Tong et al. 2022, arXiv 2203.12602): each patch is normalised by its own
mean and standard deviation, channel by channel.
"""

import math
from dataclasses import astuple

import torch
from einops import rearrange
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F

from tats_ray.geometry import TokenGrid

_STD_EPS = 255e-6  # in levels of 0..255; VideoMAE's 1e-6 on pixels in [0, 1]
_MID_LEVEL = 128
_RUN = 16  # pixels


def patchify(video: Tensor, grid: TokenGrid) -> Tensor:
    """Cut clips into patches: a permutation of pixels, nothing is computed and the dtype is kept.

    Args:
        video: Clips, ``[batch, frames, height, width, channels]``.
        grid: How many tokens each clip has along time, height and width.

    Returns:
        Patches in the token order of the grid, ``[batch, tokens, pixels]``.

    Raises:
        ValueError: The clip is not five-dimensional or the grid does not divide it.
    """
    if video.ndim != 5 or any(size % count for size, count in zip(video.shape[1:4], astuple(grid), strict=True)):
        raise ValueError(
            "video must be [batch, frames, height, width, channels] with frames, height and width divisible by the "
            f"grid, got {tuple(video.shape)} and {grid}; build the grid with TokenGrid.of from the clip's own sizes"
        )
    return rearrange(video, "b (t f) (h y) (w x) c -> b (t h w) (f y x c)", t=grid.time, h=grid.height, w=grid.width)


def unpatchify(patches: Tensor, grid: TokenGrid, *, tubelet_size: int, channels: int = 3) -> Tensor:
    """Put patches back in their places: the inverse of :func:`patchify` for square patches, whatever the dtype.

    Args:
        patches: All the patches of each clip, ``[batch, tokens, pixels]``.
        grid: The grid they were cut with.
        tubelet_size: Frames of one patch; a pixel count alone does not tell 8 x 8 x 8 from 2 x 16 x 16.
        channels: Colour channels of one pixel.

    Returns:
        Clips, ``[batch, frames, height, width, channels]``.

    Raises:
        ValueError: The token count is not the grid's, or the pixels do not form square patches.
    """
    pixels = patches.shape[-1]
    side = round((pixels / (tubelet_size * channels)) ** 0.5)
    if patches.ndim != 3 or patches.shape[1] != grid.num_tokens or pixels != tubelet_size * side * side * channels:
        raise ValueError(
            f"patches must be [batch, {grid.num_tokens}, {tubelet_size} * side * side * {channels}] for {grid}, "
            f"got {tuple(patches.shape)}; pass the grid, tubelet_size and channels that the patches were cut with"
        )
    return rearrange(
        patches,
        "b (t h w) (f y x c) -> b (t f) (h y) (w x) c",
        t=grid.time,
        h=grid.height,
        f=tubelet_size,
        y=side,
        x=side,
    )


def take_tokens(tokens: Tensor, idx: Tensor) -> Tensor:
    """Gather the chosen tokens, or patches, of each clip in the order of the indices.

    Args:
        tokens: Anything with one row a token, ``[batch, tokens, dim]``.
        idx: Which to take, ``[batch, chosen]`` integers in [0, tokens).

    Returns:
        The chosen rows, ``[batch, chosen, dim]``.
    """
    return tokens.gather(1, idx.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def normalized_patches(patches: Tensor, *, channels: int = 3) -> Tensor:
    """Normalise each channel of each patch by its own mean and unbiased standard deviation.

    Args:
        patches: Pixels of the target tokens, uint8 ``[batch, target, pixels]``.
        channels: Colour channels of one pixel.

    Returns:
        float32 ``[batch, target, pixels]`` in the pixel order of ``patches``.

    Note:
        1e-6 is added to the standard deviation of pixels in [0, 1], so a patch of one colour gives zeros.
    """
    normalized, _, _ = _standardize(patches, channels=channels)
    return normalized


def denormalize(prediction: Tensor, patches: Tensor, *, channels: int = 3) -> Tensor:
    """Give predicted patches the true mean and deviation of their targets, to look at them.

    Args:
        prediction: Values on the scale of :func:`normalized_patches`, ``[batch, target, pixels]``.
        patches: The true pixels of the same tokens, uint8 ``[batch, target, pixels]``.
        channels: Colour channels of one pixel.

    Returns:
        float32 in [0, 1], ``[batch, target, pixels]``; a prediction that overshoots is clamped.
    """
    _, mean, std = _standardize(patches, channels=channels)
    levels = prediction.float().unflatten(-1, (-1, channels)) * std + mean
    return (levels / 255).flatten(-2).clamp(0.0, 1.0)


class TubeletEmbed(nn.Module):
    """The patch tokeniser: one linear map from uint8 RGB patches to tokens, without positions.

    ``weight`` and ``bias`` are those of VideoMAE's Conv3d, which sees pixels normalised by the mean and deviation of
    ImageNet, with the kernel flattened in our pixel order. The normalisation is folded into them at each call, which is
    exact, so no normalised float clip is ever made.

    Args:
        pixels: Values of one patch, three channels included.
        dim: Width of a token.

    Raises:
        ValueError: ``pixels`` is no multiple of the three channels.

    Note:
        Pixels enter as their distance from 128. These are integers of at most eight bits, which bfloat16 holds exactly,
        and they lie around zero, so that the rounding of the folded weights is not multiplied by a large common
        brightness. The fold itself is done in the dtype of the parameters.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, pixels: int, dim: int) -> None:
        super().__init__()
        if pixels % 3:
            raise ValueError(f"pixels must be a multiple of the 3 colour channels, got {pixels}")
        mean = torch.tensor(IMAGENET_DEFAULT_MEAN, dtype=torch.float64)
        std = torch.tensor(IMAGENET_DEFAULT_STD, dtype=torch.float64)
        # (u / 255 - mean) / std = (u - 128) * scale + shift
        scale, shift = 1 / (255 * std), (_MID_LEVEL / 255 - mean) / std
        self.register_buffer("scale", scale.repeat(pixels // 3).float(), persistent=False)
        self.register_buffer("shift", shift.repeat(pixels // 3).float(), persistent=False)
        self.weight = nn.Parameter(torch.empty(dim, pixels))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weight and zero bias, as a linear layer."""
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """Project patches to tokens.

        Args:
            patches: uint8 pixels, ``[batch, chosen, pixels]``.

        Returns:
            Tokens ``[batch, chosen, dim]``, in autocast's dtype where autocast is on.

        Raises:
            ValueError: ``patches`` is not uint8.
        """
        if patches.dtype != torch.uint8:
            raise ValueError(f"patches must be raw uint8 pixels in 0..255, got {patches.dtype}; do not normalise them")
        device = patches.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.weight.dtype
        # A sum of products, since autocast would round the operands of a matrix product.
        bias = self.bias + (self.weight * self.shift).sum(-1)
        # Flipping the highest bit subtracts 128 where a pixel is still one byte.
        centred = (patches ^ _MID_LEVEL).view(torch.int8).to(dtype)
        return F.linear(centred, (self.weight * self.scale).to(dtype), bias.to(dtype))


def _standardize(patches: Tensor, *, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return normalised pixels, and the mean and guarded deviation in levels, ``[..., 1, channels]``."""
    flat = patches.to(torch.float32, copy=True)  # overwritten below: each pass over the pixels costs a trip to memory
    levels = flat.unflatten(-1, (-1, channels))
    count = levels.shape[-2]
    # An axis of three channels is too short for vector instructions, so several pixels share a row of the statistics.
    run = math.gcd(count, _RUN)
    rows = flat.unflatten(-1, (-1, run * channels))
    # Sums of levels are exact integers in float32, so a patch of one colour has exactly that colour as its mean.
    mean = levels.sum(-2, keepdim=True) / count
    rows -= mean.repeat_interleave(run, dim=-2).flatten(-2).unsqueeze(-2)
    std = (levels.square().sum(-2, keepdim=True) / (count - 1)).sqrt() + _STD_EPS
    rows /= std.repeat_interleave(run, dim=-2).flatten(-2).unsqueeze(-2)
    return flat, mean, std
