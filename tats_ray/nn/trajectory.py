"""Trajectory attention: a token gathers its own path through all frames, then looks along that path.

Patrick et al. 2021, "Keeping Your Eye on the Ball" (Motionformer, arXiv 2106.05392). For a query at site s of frame t:

1. In each frame t' alone, ``path[s,t,t'] = sum_s' v[s',t'] softmax_s'(<q[s,t], k[s',t']> / sqrt(head_dim))``.
2. Along the path, with ``q~ = Wq path[s,t,t]``, ``k~[t'] = Wk path[s,t,t']`` and ``v~[t'] = Wv path[s,t,t']``, where
   the maps act on all heads together and their result is split into heads again,
   ``y[s,t] = sum_t' v~[t'] softmax_t'(<q~, k~[t']> / sqrt(head_dim))``.
"""

import torch
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from tats_ray.geometry import TokenGrid
from tats_ray.nn.blocks import Norm, init_weights


class TrajectoryAttention(nn.Module):
    """Trajectory attention over all tokens of a clip.

    Args:
        dim: Width of a token.
        num_heads: Attention heads; must divide ``dim``.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``.

    Note:
        Step 2 is computed in another order of products, which gives the same numbers. ``<q~, Wk path>`` is
        ``<Wk^T q~, path>``, and ``Wv`` is applied once, after the path is averaged with weights that sum to one. So the
        path's keys and values, ``[tokens, time, dim]`` each, are never formed, and no map is applied once a frame. A
        bias of ``Wk`` would cancel in the softmax, so there is none.

        The published code by default takes the path itself for ``v~``, a slip that its authors describe in a comment;
        here ``Wv`` is applied, as in the paper.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} and {num_heads}")
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.path_query = nn.Linear(dim, dim)
        self.path_key = nn.Linear(dim, dim, bias=False)
        self.path_value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.apply(init_weights)

    def forward(self, x: Tensor, grid: TokenGrid) -> Tensor:
        """Attend.

        Args:
            x: All tokens of the clips in the order of the grid, without a class token, ``[batch, tokens, dim]``.
            grid: Tells the frames apart.

        Returns:
            One vector a token, ``[batch, tokens, dim]``.

        Raises:
            ValueError: The number of tokens is not the grid's.
        """
        _check_tokens(x, grid)
        paths = self._paths(x, grid)
        # Where a path crosses the query's own frame.
        own = torch.cat([path.chunk(grid.time, dim=1)[t] for t, path in enumerate(paths)], dim=1)
        query = self.scale * self.path_query(own)
        probe = torch.einsum("bnhe,hed->bnhd", query.unflatten(-1, (self.num_heads, -1)), self._of_heads(self.path_key))
        path = torch.stack(paths, dim=2)  # [batch, tokens, time, dim]
        # Path times probe, not probe times path: the gradient of the path then comes in the path's own layout.
        weight = (path @ probe.mT).softmax(dim=-2).mT  # [batch, tokens, heads, time]
        value = torch.einsum("bnhd,hed->bnhe", weight @ path, self._of_heads(self.path_value))
        return self.proj(value.flatten(-2) + self.path_value.bias)

    @torch.no_grad()
    def attention_path(self, x: Tensor, grid: TokenGrid, *, token_idx: Tensor) -> Tensor:
        """Return where one token of each clip looks in each frame, to be seen: step 1's weights, averaged over heads.

        ``weight[t', s'] = mean_h softmax_s'(<q[h,s,t], k[h,s',t']> / sqrt(head_dim))``, equation 1 of the paper.

        Args:
            x: As in :meth:`forward`, ``[batch, tokens, dim]``.
            grid: Tells the frames apart.
            token_idx: The token (s, t) that looks, ``[batch]`` integers in [0, tokens).

        Returns:
            ``[batch, time, slot_tokens]``; each frame's weights sum to 1.

        Raises:
            ValueError: The number of tokens is not the grid's, or a token lies outside of it.
        """
        _check_tokens(x, grid)
        if token_idx.shape != x.shape[:1] or not ((token_idx >= 0) & (token_idx < grid.num_tokens)).all():
            raise ValueError(
                f"token_idx must hold a number from 0 to {grid.num_tokens - 1} for each of {len(x)} clips, got "
                f"{token_idx.tolist()}"
            )
        query, key, _ = (part.unflatten(-1, (self.num_heads, -1)) for part in self.qkv(x).chunk(3, dim=-1))
        query = query[torch.arange(len(x), device=x.device), token_idx]  # [batch, heads, head_dim]
        score = self.scale * torch.einsum("bhe,btshe->bhts", query, key.unflatten(1, (grid.time, -1)))
        return score.softmax(dim=-1).mean(1)

    def _paths(self, x: Tensor, grid: TokenGrid) -> list[Tensor]:
        """Return the paths of step 1 at each frame, heads side by side, ``[batch, tokens, dim]``."""
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)) for part in self.qkv(x).chunk(3, dim=-1))
        query = query.transpose(1, 2)
        frames = (part.unflatten(1, (grid.time, -1)).transpose(2, 3).unbind(1) for part in (key, value))
        # One call a frame. All frames in one call would copy the queries once a frame: a stride of zero over frames
        # cannot be merged into the batch.
        paths = [F.scaled_dot_product_attention(query, *frame) for frame in zip(*frames, strict=True)]
        return [path.transpose(1, 2).flatten(2) for path in paths]

    def _of_heads(self, linear: nn.Linear) -> Tensor:
        """Return the rows of a map that make each head's share of its output, ``[heads, head_dim, dim]``."""
        return linear.weight.unflatten(0, (self.num_heads, -1))


class TrajectoryBlock(nn.Module):
    """A pre-norm transformer block with trajectory attention.

    Args:
        dim: Width of a token.
        num_heads: Attention heads; must divide ``dim``.
        mlp_ratio: Hidden width of the MLP over ``dim``.
    """

    def __init__(self, dim: int, num_heads: int, *, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = Norm(dim)
        self.attn = TrajectoryAttention(dim, num_heads)
        self.norm2 = Norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter anew from torch's global generator."""
        self.apply(init_weights)

    def forward(self, x: Tensor, grid: TokenGrid) -> Tensor:
        """Mix the tokens of each clip, ``[batch, tokens, dim]``; the shape is kept."""
        x = x + self.attn(self.norm1(x), grid)
        return x + self.mlp(self.norm2(x))

    def attention_path(self, x: Tensor, grid: TokenGrid, *, token_idx: Tensor) -> Tensor:
        """Return where one token of each clip looks in each frame; see :meth:`TrajectoryAttention.attention_path`."""
        return self.attn.attention_path(self.norm1(x), grid, token_idx=token_idx)


def _check_tokens(x: Tensor, grid: TokenGrid) -> None:
    if x.shape[1] != grid.num_tokens:
        raise ValueError(f"x must hold the {grid.num_tokens} tokens of {grid}, got {x.shape[1]}")
