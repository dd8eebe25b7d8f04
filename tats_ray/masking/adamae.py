"""AdaMAE's scorer (Bandara et al. 2023, arXiv 2211.09120): one transformer block over the encoder's own embedding."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from tats_ray.geometry import TokenGrid
from tats_ray.masking.draws import Scores


class AdaMAEConfig(BaseModel):
    """Visible tokens drawn from AdaMAE's scorer, trained jointly with the autoencoder by policy gradient."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["adamae"] = "adamae"
    """Strategy by which the visible tokens are chosen."""
    num_heads: int = Field(default=8, ge=1)
    """Attention heads of the scorer's block; its width is the encoder's."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout behind the scorer's projections, as in AdaMAE's published code."""
    loss_weight: float = Field(default=1e-4, gt=0)
    """Weight of the sampling loss beside the reconstruction loss."""


class AdaMAEScorer(nn.Module):
    """Tokens of the shared embedding, zero position table, one block, one linear head.

    Unlike TATS, the sampling loss reaches the shared embedding, as in AdaMAE's published code.
    """

    def __init__(self, config: AdaMAEConfig, *, grid: TokenGrid, dim: int) -> None:
        super().__init__()
        if dim % config.num_heads:
            raise ValueError(f"masking.visible.num_heads must divide the encoder's width {dim}, got {config.num_heads}")
        self.positions = nn.Parameter(torch.zeros(grid.num_tokens, dim))
        self.block = Block(dim, config.num_heads, qkv_bias=False, proj_drop=config.dropout)
        self.head = nn.Linear(dim, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Scores:
        """Score every token.

        Args:
            tokens: ``[batch, tokens, dim]``, the encoder's embedding without positions, with gradient.
        """
        features = self.block(tokens + self.positions)
        with torch.autocast(features.device.type, enabled=False):
            return Scores(logits=self.head(features.float()).squeeze(-1))
