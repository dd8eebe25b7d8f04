"""What the sampler learns from: the withheld-token bandit and its rollouts.

The question put to every token is: how badly is it rebuilt when it is withheld from the encoder? A hidden token answers
for itself; its answer is weighted by the inverse of the chance that it was hidden, so that the mean over draws is right
for every token. See ``docs/objective.md`` for the derivation.

Dimension names: ``clips``, ``tokens`` (all of a clip), ``target`` (hidden and decoded).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LOG_WEIGHT_CAP = 3.0
"""Largest log of an inverse hiding chance; e^3 bounds the variance that one improbable hidden token can bring."""


@dataclass(frozen=True)
class Rollout:
    """One batch of drawn clips with all that the objective needs later; every tensor is detached.

    ``observation`` is whatever the sampler reads (uint8 patches here); it is handed back to the sampler unchanged.
    """

    observation: Tensor  # [clips, ...]
    log_prob: Tensor  # [clips, tokens], float32, of the policy that drew
    target_idx: Tensor  # [clips, target]
    error: Tensor  # [clips, target], relative to the clip's mean
    weight: Tensor  # [clips, target], inverse chance that the token was hidden and decoded
    advantage: Tensor | None = None  # [clips, tokens], or [clips, 1] for the whole draw; None while the policy is off
    order: Tensor | None = None  # [clips, visible], the visible tokens in the order drawn
    clip_error: Tensor | None = None  # [clips], mean error of the targets
    clip_value: Tensor | None = None  # [clips], what the critic of whole clips expected of it
    decode_weight: Tensor | None = None  # [clips, target], the part of weight for being decoded when hidden; None is 1

    def __len__(self) -> int:
        return self.log_prob.shape[0]


def hiding_weight(log_prob: Tensor, threshold: Tensor, *, log_cap: float = LOG_WEIGHT_CAP) -> Tensor:
    """Return 1 / P(token hidden | the other tokens' clocks), capped at ``exp(log_cap)``.

    With clocks ``t_i ~ Exp(1) / p_i`` and the K smallest visible, a hidden token stayed hidden exactly when its own
    clock was later than the K-th smallest, which has chance ``exp(-p_i t_K)``.

    Args:
        log_prob: ``[clips, tokens]``, the policy that drew, float32.
        threshold: ``[clips]``, the K-th smallest clock.
        log_cap: Upper bound of the logarithm; ``inf`` switches it off.
    """
    return torch.exp((log_prob.exp() * threshold[:, None]).clamp(max=log_cap))


def relative_error(error: Tensor, weight: Tensor) -> Tensor:
    """Divide each clip's token errors by their mean over the hidden tokens.

    Args:
        error: ``[clips, target]``, not negative.
        weight: ``[clips, target]``, 0 where a token does not count (it was visible), elsewhere the inverse chance that
            it was decoded when hidden: the weighted mean of a stratified choice is that of all hidden tokens.
    """
    error = error.float()
    mean = (error * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    return error / mean.clamp_min(torch.finfo(error.dtype).tiny)


def withheld_advantage(*, log_prob: Tensor, value: Tensor, target_idx: Tensor, error: Tensor, weight: Tensor) -> Tensor:
    """Return how much worse than expected under the policy each token fares when withheld.

    ``Q_i = V_i + w_i (e_i - V_i)`` on hidden, decoded tokens and ``V_i`` elsewhere is an unbiased estimate of the
    withheld error for any critic; the advantage subtracts the policy's mean of V. It is not divided by its standard
    deviation: that would undo the temperature of the policy.

    Args:
        log_prob: ``[clips, tokens]`` of the policy that drew.
        value: ``[clips, tokens]``, the critic at the time of the draw.
        target_idx: ``[clips, target]``.
        error: ``[clips, target]``, relative to the clip's mean.
        weight: ``[clips, target]``, inverse chance of being hidden and decoded; 0 drops a token.

    Returns:
        ``[clips, tokens]``, detached.
    """
    with torch.no_grad():
        value = value.float()
        surprise = weight * (error - value.gather(1, target_idx))
        baseline = (log_prob.exp() * value).sum(1, keepdim=True)
        return value.scatter_add(1, target_idx, surprise) - baseline
