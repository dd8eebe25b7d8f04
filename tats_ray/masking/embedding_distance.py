"""Importance by embedding: how far a token's embedding lies from that of the same site one slot before.

EVEREST (Hwang et al. 2022, arXiv 2211.10636, section 3.2) measures it with the embedding that is being trained.
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid


class EmbeddingDistanceConfig(BaseModel):
    """Tokens are as important as their embedding differs from that of the slot before, by the encoder's embedding."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["embedding-distance"] = "embedding-distance"
    """What ranks the tokens."""


class EmbeddingDistance:
    """Euclidean distance to the embedding one slot before; the first slot has the second's."""

    def __init__(self, embed: Callable[[Tensor], Tensor], *, grid: TokenGrid) -> None:
        if grid.time < 2:
            raise ValueError(
                f"masking.importance.kind=embedding-distance compares time slots and needs two, got {grid.time}; "
                f"raise data.num_frames"
            )
        self.embed = embed
        self.grid = grid

    @torch.no_grad()
    def __call__(self, batch: ClipBatch, patches: Tensor) -> Tensor:
        """Rank by the embedding, without gradient."""
        return slot_distance(self.embed(patches).float(), self.grid)


def slot_distance(features: Tensor, grid: TokenGrid) -> Tensor:
    """Return each token's distance to the one before at its site, ``[batch, tokens]``, of ``[batch, tokens, dim]``."""
    slots = features.unflatten(1, (grid.time, grid.slot_tokens))
    distance = torch.linalg.vector_norm(slots[:, 1:] - slots[:, :-1], dim=-1)
    return torch.cat([distance[:, :1], distance], dim=1).flatten(1)
