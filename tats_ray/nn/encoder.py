"""The video encoder: a ViT over the chosen tokens of a clip.

Dosovitskiy et al. 2021 (arXiv 2010.11929) in the form of VideoMAE (Tong et al. 2022, arXiv 2203.12602): tubelets, fixed
positions, no class token.
"""

from typing import Literal, Self

from pydantic import Field
from torch import Tensor, nn

from tats_ray.nn.blocks import BlockStack, Norm, StackConfig, init_weights
from tats_ray.nn.patches import TubeletEmbed, take_tokens

Size = Literal["tiny", "small", "base", "large", "huge"]


class EncoderConfig(StackConfig):
    """Shape of the encoder; the defaults are those of ViT-B."""

    drop_path_rate: float = Field(default=0.0, ge=0, lt=1)
    """Chance that a residual branch of the last block is dropped in training; 0 for pre-training."""

    @classmethod
    def of_size(cls, size: Size) -> Self:
        """The shape that goes by a name.

        Raises:
            ValueError: There is no such size.
        """
        if size not in ENCODER_SIZES:
            raise ValueError(f"size must be one of {', '.join(ENCODER_SIZES)}, got {size!r}")
        embed_dim, depth, num_heads = ENCODER_SIZES[size]
        return cls(embed_dim=embed_dim, depth=depth, num_heads=num_heads)


ENCODER_SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (96, 3, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
"""Width, depth and heads by name. "tiny" is ours, for tests and laptops; the others are the ViT family."""


class VideoEncoder(nn.Module):
    """Encodes the chosen tokens of a clip; the others are never projected.

    Args:
        config: The shape.
        patch_pixels: Values of one patch: frames x height x width x 3.
        positions: What is added to each token of a whole clip, ``[tokens, embed_dim]``.
    """

    positions: Tensor

    def __init__(self, config: EncoderConfig, *, patch_pixels: int, positions: Tensor) -> None:
        super().__init__()
        self.embed = TubeletEmbed(patch_pixels, config.embed_dim)
        self.register_buffer("positions", positions, persistent=False)
        self.stack = BlockStack(config, drop_path_rate=config.drop_path_rate)
        self.norm = Norm(config.embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew from torch's global generator."""
        self.embed.reset_parameters()
        self.apply(init_weights)

    def forward(self, patches: Tensor, idx: Tensor | None = None) -> Tensor:
        """Encode the chosen tokens.

        Args:
            patches: uint8 pixels of all tokens, ``[batch, tokens, pixels]``.
            idx: Which tokens to encode, ``[batch, chosen]`` integers in [0, tokens); None for all, in order.

        Returns:
            Features after the final norm, in the order of ``idx``, ``[batch, chosen, dim]``.

        Raises:
            ValueError: The clips have another number of tokens than the encoder was built for.
        """
        if patches.shape[1] != len(self.positions):
            raise ValueError(
                f"patches must hold the {len(self.positions)} tokens this encoder was built for, "
                f"got {patches.shape[1]}; build it with a position for each of {patches.shape[1]}"
            )
        if idx is None:
            tokens = self.embed(patches) + self.positions
        else:
            tokens = self.embed(take_tokens(patches, idx)) + self.positions[idx]
        return self.norm(self.stack(tokens))
