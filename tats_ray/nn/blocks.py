"""A stack of pre-norm transformer blocks: what the encoder and the decoder share.

The block is timm's. VideoMAE has no bias on the keys; this block has one, to no effect: it adds the same number to all
the scores of a query, which softmax takes away again, so outputs are equal and its gradient is zero.
"""

import math
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Norm(nn.LayerNorm):
    """Layer norm over the width of a token, with the epsilon of the ViT family."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__(dim, eps=1e-6, **factory)


class StackConfig(BaseModel):
    """Shape of a stack of transformer blocks; the defaults are those of ViT-B."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    embed_dim: int = Field(default=768, gt=0, multiple_of=2)
    """Width of a token; even, and a multiple of ``num_heads``."""
    depth: int = Field(default=12, gt=0)
    """Number of blocks."""
    num_heads: int = Field(default=12, gt=0)
    """Attention heads of each block."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Hidden width of the MLP over ``embed_dim``."""
    activation_checkpointing: StrictBool = False
    """Recompute each block in the backward pass: less memory, a third more work, the same numbers."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.embed_dim % self.num_heads:
            step = math.lcm(self.num_heads, 2)
            raise ValueError(
                f"embed_dim must be a multiple of num_heads, got {self.embed_dim} and {self.num_heads}; "
                f"try embed_dim={math.ceil(self.embed_dim / step) * step}"
            )
        return self


class BlockStack(nn.Module):
    """Transformer blocks in a row; no norm after the last.

    Args:
        config: The shape.
        drop_path_rate: Chance in [0, 1) that a residual branch of the last block is dropped for a clip in training,
            rising linearly from 0 at the first; drawn from torch's global generator.
    """

    def __init__(self, config: StackConfig, *, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.activation_checkpointing = config.activation_checkpointing
        self.blocks = nn.ModuleList(
            Block(
                config.embed_dim,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=True,
                drop_path=rate,
                norm_layer=Norm,
            )
            for rate in np.linspace(0, drop_path_rate, config.depth).tolist()
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the blocks over tokens ``[batch, tokens, dim]``; the shape is kept."""
        for block in self.blocks:
            tokens = checkpoint(block, tokens, use_reentrant=False) if self.activation_checkpointing else block(tokens)
        return tokens


def init_weights(module: nn.Module) -> None:
    """Draw the weights of one layer as VideoMAE does; for ``nn.Module.apply``.

    Linear maps are Xavier-uniform, biases zero, norms the identity. Modules of other types are left alone.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        module.reset_parameters()
