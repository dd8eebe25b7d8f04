"""A stack of pre-norm transformer blocks: what the encoder and the decoder share.

The block has the parameters, names and numbers of timm's, and two things beside it: a block can be asked for the
outputs of some tokens only, and the gradients of queries, keys and values are put together in one copy instead of two.

VideoMAE has no bias on the keys; this block has one, to no effect: it adds the same number to all the scores of a
query, which softmax takes away again, so outputs are equal and its gradient is zero.
"""

import math
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Norm(nn.LayerNorm):
    """Layer norm over the width of a token, with the epsilon of the ViT family."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__(dim, eps=1e-6, **factory)


class Attention(nn.Module):
    """Self-attention with one map for queries, keys and values.

    Args:
        dim: Width of a token.
        num_heads: Attention heads; must divide ``dim``.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, *, context: int = 0) -> Tensor:
        """Attend.

        Args:
            x: ``[batch, tokens, dim]``.
            context: So many tokens in front are looked at and do not look themselves.

        Returns:
            One vector for each of the other tokens, ``[batch, tokens - context, dim]``.
        """
        # Cut along the last axis: the backward pass is then one concatenation in the layout that the map wants.
        parts = self.qkv(x).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query[:, :, context:], key, value)
        return self.proj(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm transformer block.

    Args:
        dim: Width of a token.
        num_heads: Attention heads; must divide ``dim``.
        mlp_ratio: Hidden width of the MLP over ``dim``.
        drop_path: Chance that a residual branch is dropped for a clip in training.
    """

    def __init__(self, dim: int, num_heads: int, *, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = Norm(dim)
        self.attn = Attention(dim, num_heads)
        self.norm2 = Norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, *, context: int = 0) -> Tensor:
        """Mix the tokens of each clip.

        Args:
            x: ``[batch, tokens, dim]``.
            context: So many tokens in front are only looked at.

        Returns:
            The other tokens, ``[batch, tokens - context, dim]``.
        """
        x = x[:, context:] + self.drop_path(self.attn(self.norm1(x), context=context))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class StackConfig(BaseModel):
    """Shape of a stack of transformer blocks; the defaults are those of ViT-B."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    embed_dim: int = Field(default=768, gt=0, multiple_of=2)
    """Width of a token; even, and a multiple of ``num_heads``."""
    depth: int = Field(default=12, gt=0, le=1000)
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
                drop_path=rate,
            )
            for rate in np.linspace(0, drop_path_rate, config.depth).tolist()
        )

    def forward(self, tokens: Tensor, *, context: int = 0) -> Tensor:
        """Run the blocks.

        Args:
            tokens: ``[batch, tokens, dim]``.
            context: So many tokens in front are not wanted back. The last block only looks at them, which saves their
                part of its work and changes no number of the others.

        Returns:
            The wanted tokens, ``[batch, tokens - context, dim]``.
        """
        *blocks, last = self.blocks
        for block in blocks:
            tokens = self._run(block, tokens, context=0)
        return self._run(last, tokens, context=context)

    def _run(self, block: nn.Module, tokens: Tensor, *, context: int) -> Tensor:
        if self.activation_checkpointing:
            return checkpoint(block, tokens, context=context, use_reentrant=False)
        return block(tokens, context=context)


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
