"""Fixed sine and cosine positions of tokens, in the form of Vaswani et al. 2017 (arXiv 1706.03762), section 3.5.

``1d`` counts tokens in the flattened grid, as VideoMAE does (Tong et al. 2022, arXiv 2203.12602). ``3d`` gives time,
row and column a part of the channels each: tokens of the same site are then alike in two thirds of them, and a small
model learns to copy what does not move in far fewer steps.
"""

from typing import Literal, assert_never

import torch
from torch import Tensor

from tats_ray.geometry import TokenGrid

PositionKind = Literal["1d", "3d"]


def position_table(kind: PositionKind, grid: TokenGrid, dim: int) -> Tensor:
    """Return the table of a grid, float32 ``[tokens, dim]``; that of a shorter clip is a prefix of a longer one's.

    Raises:
        ValueError: ``dim`` is odd, or below 6 for ``3d``.
    """
    match kind:
        case "1d":
            return sincos_positions(grid.num_tokens, dim)
        case "3d":
            part = dim // 6 * 2
            token = torch.arange(grid.num_tokens)
            site = token % grid.slot_tokens
            axes = (
                (token // grid.slot_tokens, grid.time, part),
                (site // grid.width, grid.height, part),
                (site % grid.width, grid.width, dim - 2 * part),
            )
            return torch.cat([sincos_positions(length, width)[index] for index, length, width in axes], dim=1)
        case never:
            assert_never(never)


def sincos_positions(num_tokens: int, dim: int) -> Tensor:
    """Table of positions; a shorter table is a prefix of a longer one of the same width.

    Args:
        num_tokens: Rows of the table.
        dim: Columns, an even number: column 2i is the sine and column 2i + 1 the cosine of
            ``token / 10000 ** (2i / dim)``.

    Returns:
        float32 ``[num_tokens, dim]``, computed in float64. Keep it as a non-persistent buffer.

    Raises:
        ValueError: ``dim`` is odd or not positive.
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be an even number of at least 2 to pair sines with cosines, got {dim}")
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.arange(num_tokens, dtype=torch.float64)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()
