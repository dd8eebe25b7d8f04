"""Fixed sine and cosine positions over the index of a token.

As in VideoMAE (Tong et al. 2022, arXiv 2203.12602): one dimension, the token's place in the flattened grid, in the form
of Vaswani et al. 2017 (arXiv 1706.03762), section 3.5.
"""

import torch
from torch import Tensor


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
