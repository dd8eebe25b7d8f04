"""Finite scalar quantisation (Mentzer et al. 2023, arXiv 2309.15505): each dimension is rounded to one of a few levels.

There is no codebook to learn, and no loss of its own. With ``L`` levels, ``h = (L - 1) (1 + eps) / 2`` and an offset
``o`` of 1/2 for even ``L``, else 0::

    b = tanh(z + atanh(o / h)) h - o        q = round(b)        code = q / floor(L / 2)

So zero becomes the code zero exactly, whatever the levels: latents that are not kept have a legal code of their own.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

MARGIN = 1e-3
"""How far the range of ``b`` reaches beyond the outermost levels, so that they can be reached."""


class FSQ(nn.Module):
    """Rounds latents to codes, with a straight-through gradient, and numbers the codes.

    Example:
        >>> fsq = FSQ([8] * 6)
        >>> fsq.size
        262144
        >>> fsq(torch.zeros(1, 6)).tolist()
        [[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """

    levels: Tensor
    middle: Tensor
    strides: Tensor
    reach: Tensor
    offset: Tensor
    shift: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        """Take the levels of each dimension.

        Raises:
            ValueError: There are none, or one is below 2.
        """
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels must be at least 2 in every dimension, got {list(levels)}")
        number = torch.tensor(levels, dtype=torch.float64)
        reach = (number - 1) * (1 + MARGIN) / 2
        offset = torch.where(number % 2 == 0, 0.5, 0.0).double()
        constants = {
            "levels": torch.tensor(levels, dtype=torch.int64),
            "middle": torch.tensor([level // 2 for level in levels], dtype=torch.int64),
            "strides": torch.tensor([math.prod(levels[:place]) for place in range(len(levels))], dtype=torch.int64),
            "reach": reach.float(),
            "offset": offset.float(),
            "shift": torch.atanh(offset / reach).float(),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)  # settings, not weights
        self.size = math.prod(levels)
        """Codes that there are."""

    def forward(self, latent: Tensor) -> Tensor:
        """Return codes in [-1, 1] for latents ``[..., dimensions]``, float32; the gradient passes the rounding."""
        bounded = torch.tanh(latent.float() + self.shift) * self.reach - self.offset
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / self.middle

    def index(self, code: Tensor) -> Tensor:
        """Return the numbers, int64 ``[...]`` from 0 to ``size - 1``, of codes ``[..., dimensions]``."""
        return ((code * self.middle).round().long() + self.middle).mul(self.strides).sum(-1)

    def code(self, index: Tensor) -> Tensor:
        """Return the codes, float32 ``[..., dimensions]``, of numbers; the inverse of :meth:`index`.

        Raises:
            ValueError: A number is none of a code.
        """
        return (self.level(index) - self.middle).float() / self.middle

    def level(self, index: Tensor) -> Tensor:
        """Return which level each dimension has, int64 ``[..., dimensions]`` from 0, of numbers of codes.

        Raises:
            ValueError: A number is none of a code.
        """
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.size:
            raise ValueError(
                f"index must lie in 0 to {self.size - 1}, got {int(index.min())} to {int(index.max())}: these are "
                f"codes of other levels than {self.levels.tolist()}"
            )
        return index.unsqueeze(-1).div(self.strides, rounding_mode="floor") % self.levels
