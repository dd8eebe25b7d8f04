"""An attentive head: one learnt query looks at a clip's tokens, and a linear map names the class.

The probe of V-JEPA (Bardes et al. 2024, arXiv 2404.08471, section 4.2 and appendix D): cross-attention, a residual
connection and an MLP, then a norm and a linear layer.
"""

import torch
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from tats_ray.nn.blocks import Norm, init_weights


class AttentivePooler(nn.Module):
    """Pools the tokens of a clip by one cross-attention block with a single learnt query.

    Args:
        dim: Width of a token.
        num_heads: Attention heads, each with its own view of what matters; must divide ``dim``.
        mlp_ratio: Hidden width of the MLP over ``dim``.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``.

    Note:
        With one query, ``<q, Wk x>`` is ``<Wk^T q, x>``, and ``Wv`` can be applied once, after the tokens are averaged
        with weights that sum to one. So keys and values are never formed: two products with ``heads`` columns stand for
        two with ``dim`` columns, the same numbers at a small part of the cost. A bias of ``Wk`` would cancel in the
        softmax, and gain and bias of a norm before the maps would be absorbed by them, so there are none.
    """

    def __init__(self, dim: int, num_heads: int, *, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        if dim % num_heads:
            fitting = max(count for count in range(1, num_heads + 1) if dim % count == 0)
            raise ValueError(
                f"num_heads must divide the width of a token, got {num_heads} and {dim}; try num_heads={fitting}"
            )
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.query = nn.Parameter(torch.empty(dim))
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.query_map = nn.Linear(dim, dim)
        self.key_map = nn.Linear(dim, dim, bias=False)
        self.value_map = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = Norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew from torch's global generator."""
        nn.init.trunc_normal_(self.query, std=0.02)
        self.apply(init_weights)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool ``[batch, tokens, dim]`` to ``[batch, dim]``."""
        tokens = self.norm1(tokens)
        weight = (tokens @ self._probe().mT).softmax(dim=1)  # [batch, tokens, heads]
        seen = weight.mT @ tokens  # [batch, heads, dim]
        value = torch.einsum("bhd,hed->bhe", seen, self._of_heads(self.value_map)).flatten(1) + self.value_map.bias
        pooled = self.query + self.proj(value)
        return pooled + self.mlp(self.norm2(pooled))

    def _probe(self) -> Tensor:
        """What each head compares tokens with, ``[heads, dim]``."""
        query = self.scale * self.query_map(self.query).unflatten(0, (self.num_heads, -1))
        return torch.einsum("he,hed->hd", query, self._of_heads(self.key_map))

    def _of_heads(self, linear: nn.Linear) -> Tensor:
        """Return the rows of a map that make each head's share of its output, ``[heads, head_dim, dim]``."""
        return linear.weight.unflatten(0, (self.num_heads, -1))


class AttentiveClassifier(nn.Module):
    """An attentive pooler, a norm and a linear layer.

    Args:
        dim: Width of a token.
        num_classes: Classes to tell apart.
        num_heads: Attention heads; must divide ``dim``.
        mlp_ratio: Hidden width of the MLP over ``dim``.
    """

    def __init__(self, dim: int, num_classes: int, *, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.pooler = AttentivePooler(dim, num_heads, mlp_ratio=mlp_ratio)
        self.norm = Norm(dim)
        self.head = nn.Linear(dim, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew from torch's global generator."""
        self.pooler.reset_parameters()
        self.norm.reset_parameters()
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits ``[batch, classes]`` for ``[batch, tokens, dim]``."""
        return self.head(self.norm(self.pooler(tokens)))
