"""The decoder of a masked autoencoder: predicts the target tokens from the visible ones.

As in VideoMAE (Tong et al. 2022, arXiv 2203.12602): visible tokens first, then a mask token for each target, in any
order since positions travel with them. A target set smaller than the hidden one is the dual masking of VideoMAE V2
(Wang et al. 2023, arXiv 2303.16727).
"""

from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn

from tats_ray.nn.blocks import BlockStack, Norm, StackConfig, init_weights
from tats_ray.nn.encoder import Size


class DecoderConfig(StackConfig):
    """Shape of the decoder; the defaults go with a ViT-B encoder."""

    embed_dim: int = Field(default=384, gt=0, multiple_of=2)
    """Width of a token in the decoder; even, and a multiple of ``num_heads``."""
    depth: int = Field(default=4, gt=0, le=1000)
    """Number of blocks."""
    num_heads: int = Field(default=6, gt=0)
    """Attention heads of each block."""

    @classmethod
    def of_size(cls, size: Size) -> Self:
        """The decoder that goes with the encoder of this name.

        Raises:
            ValueError: There is no such size.
        """
        if size not in DECODER_SIZES:
            raise ValueError(f"size must be one of {', '.join(DECODER_SIZES)}, got {size!r}")
        embed_dim, depth, num_heads = DECODER_SIZES[size]
        return cls(embed_dim=embed_dim, depth=depth, num_heads=num_heads)


DECODER_SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (64, 1, 2),
    "small": (192, 4, 3),
    "base": (384, 4, 6),
    "large": (512, 12, 8),
    "huge": (640, 12, 8),
}
"""Width, depth and heads by the name of the encoder's size. "tiny" is ours; the others are VideoMAE's."""


class MaskedDecoder(nn.Module):
    """Predicts the content of the target tokens.

    Args:
        config: The shape.
        encoder_dim: Width of the visible tokens.
        patch_pixels: Values predicted for each target token.
        positions: What is added to each token of a whole clip, ``[tokens, embed_dim]``.
    """

    positions: Tensor

    def __init__(self, config: DecoderConfig, *, encoder_dim: int, patch_pixels: int, positions: Tensor) -> None:
        super().__init__()
        self.bridge = nn.Linear(encoder_dim, config.embed_dim, bias=False)
        self.mask_token = nn.Parameter(torch.empty(config.embed_dim))
        self.register_buffer("positions", positions, persistent=False)
        self.stack = BlockStack(config)
        self.norm = Norm(config.embed_dim)
        self.head = nn.Linear(config.embed_dim, patch_pixels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew from torch's global generator."""
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.apply(init_weights)

    def forward(self, visible: Tensor, visible_idx: Tensor, target_idx: Tensor) -> Tensor:
        """Predict the target tokens.

        Args:
            visible: The encoder's features, ``[batch, visible, encoder_dim]``.
            visible_idx: Their places in the clip, ``[batch, visible]`` integers.
            target_idx: The places to predict, ``[batch, target]`` integers.

        Returns:
            Predictions in the order of ``target_idx``, ``[batch, target, patch_pixels]``.
        """
        known = self.bridge(visible) + self.positions[visible_idx]
        asked = self.mask_token + self.positions[target_idx]
        tokens = self.stack(torch.cat([known, asked], dim=1), context=visible_idx.shape[1])
        return self.head(self.norm(tokens))
