"""MaskPlan: which tokens of each clip the encoder sees and which the decoder predicts."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """How a policy drew the visible tokens; what an objective needs to know about it later."""

    log_prob: Tensor  # [batch, tokens], of the policy that drew, float32, detached
    order: Tensor  # [batch, visible], the visible tokens in the order drawn
    threshold: Tensor  # [batch], the K-th smallest clock


@dataclass(frozen=True)
class MaskPlan:
    """Both index sets of a batch; rows have equal counts, indices are unique and sorted."""

    visible_idx: Tensor  # [batch, visible], int64
    target_idx: Tensor  # [batch, target], int64
    target_weight: Tensor  # [batch, target], float32: 0 where a target is visible, 1 where it counts
    draw: Draw | None = None  # None for fixed rules
    decode_chance: Tensor | None = None  # [batch, target], float32: of being a target when hidden; None is 1

    @property
    def decode_weight(self) -> Tensor:
        """Return ``target_weight`` over the chance of being a target, ``[batch, target]``.

        Sums over the targets with these weights estimate sums over all hidden tokens without bias.
        """
        return self.target_weight if self.decode_chance is None else self.target_weight / self.decode_chance


def hidden_tokens(visible_idx: Tensor, *, num_tokens: int) -> Tensor:
    """Return the sorted indices that are not visible, ``[batch, num_tokens - visible]``."""
    batch, visible = visible_idx.shape
    seen = torch.zeros(batch, num_tokens, dtype=torch.uint8, device=visible_idx.device)
    seen.scatter_(1, visible_idx, 1)
    # A stable sort of the flag alone keeps hidden tokens first and in order; no shape depends on the data.
    return seen.argsort(dim=1, stable=True)[:, : num_tokens - visible]
