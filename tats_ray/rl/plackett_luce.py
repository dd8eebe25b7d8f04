"""The exact probability of a draw without replacement, in the order drawn: Plackett and Luce's model."""

import torch
from torch import Tensor


def pick_log_prob(log_prob: Tensor, order: Tensor) -> Tensor:
    """Return the log-probability of each pick given the picks before it; their sum is that of the whole order.

    ``log p_k - log(1 - sum_{j < k} p_j)``, p being those of the picks. What is left is summed up from its own parts,
    not subtracted from 1, which would lose it once the picks hold nearly all the probability.

    Args:
        log_prob: ``[clips, tokens]``, float32, normalised.
        order: ``[clips, picks]``, distinct tokens in the order drawn, fewer than there are.

    Returns:
        ``[clips, picks]``.
    """
    tokens, picks = log_prob.shape[1], order.shape[1]
    if picks >= tokens:
        raise ValueError(f"order must pick fewer tokens than the {tokens} that there are, got {picks}")
    picked = log_prob.gather(1, order)
    rest = log_prob.scatter(1, order, -torch.inf).logsumexp(1, keepdim=True)
    left = torch.cat([rest, picked.flip(1)], dim=1).logcumsumexp(1)[:, 1:].flip(1)
    return picked - left
