"""Ablations: textbook PPO on the drawn set, with the exact likelihood of its order and one reward a clip."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from tats_ray.rl.objective import Estimate, Loss, MeanOfAll, Objective
from tats_ray.rl.plackett_luce import pick_log_prob
from tats_ray.rl.ppo import PPOConfig, clipped_surrogate, entropy, policy_change
from tats_ray.rl.rollout import Rollout

Reward = Literal["low error", "high error"]


class DrawnOrder(Objective):
    """``-sum_k min(r_k A, clip(r_k, 1 - eps, 1 + eps) A) - tau H(p)``, k over the picks of a clip.

    ``A = +-(E - U)``: E is the clip's mean hidden error in units of its mean over all clips of the update, so that the
    autoencoder's progress does not change the scale; U is what a critic of whole clips, the only one that knows how
    hard the clip is, expected of E. A is not divided by its standard deviation: tau stays in units of the mean error.

    The ratio is one of each pick given the picks before it: the ratio of the whole order, a product of a hundred of
    these, leaves the clip range at the smallest change. At ratio 1 the expected gradient is that of
    ``-+E[E] - tau H(p)``, with nothing left out.

    The entropy is that of the first pick; the order's own has no closed form. Its weight is the ``temperature``.
    """

    def __init__(self, config: PPOConfig, *, reward: Reward) -> None:
        super().__init__(config)
        self.sign = 1.0 if reward == "high error" else -1.0

    def credit(self, rollout: Rollout, drawn_by: Estimate) -> Rollout:
        """Add what the critic of whole clips expected; the advantage follows once the update's mean error is known."""
        return replace(rollout, clip_value=_clip_value(drawn_by).detach())

    def prepare(self, gathered: Sequence[Sequence[Rollout]], mean: MeanOfAll) -> Sequence[Sequence[Rollout]]:
        """Put the clips' errors in units of their mean over all workers; add the advantages."""
        errors = torch.cat([torch.zeros(0), *(_clip_error(rollout).cpu() for step in gathered for rollout in step)])
        unit = max(mean(errors.sum(), count=len(errors)), torch.finfo(torch.float32).tiny)
        return [[self._relative(rollout, unit) for rollout in step] for step in gathered]

    def value_loss(self, estimate: Estimate, rollout: Rollout) -> Loss:
        """Return the critic's loss and that of the critic of whole clips."""
        loss, stats = super().value_loss(estimate, rollout)
        clip_loss = (_clip_value(estimate) - _clip_error(rollout)).square()
        return loss + clip_loss, stats | {"clip_value_loss": clip_loss.detach()}

    def loss(self, estimate: Estimate, rollout: Rollout, *, temperature: float) -> Loss:
        """Return the clipped surrogate over the picks, the entropy and both critics' losses."""
        if rollout.order is None or rollout.advantage is None:
            raise ValueError("rollout.order and rollout.advantage must be set, the latter by prepare")
        new, old = (pick_log_prob(log_prob, rollout.order) for log_prob in (estimate.log_prob, rollout.log_prob))
        surrogate, stats = clipped_surrogate((new - old).exp(), rollout.advantage, clip_eps=self.config.clip_eps)
        policy_loss = -surrogate.sum(1)
        value_loss, value_stats = self.value_loss(estimate, rollout)
        stats |= policy_change(estimate.log_prob, rollout.log_prob) | {"policy_loss": policy_loss.detach()}
        loss = policy_loss - temperature * entropy(estimate.log_prob) + self.config.value_coef * value_loss
        return loss, stats | value_stats

    def _relative(self, rollout: Rollout, unit: float) -> Rollout:
        error = _clip_error(rollout) / unit
        if rollout.clip_value is None:  # the policy is off
            return replace(rollout, clip_error=error)
        advantage = self.sign * (error - rollout.clip_value)
        return replace(rollout, clip_error=error, advantage=advantage[:, None])


def _clip_error(rollout: Rollout) -> Tensor:
    if rollout.clip_error is None:
        raise ValueError("rollout.clip_error is None: an objective on whole clips needs each clip's mean error")
    return rollout.clip_error


def _clip_value(estimate: Estimate) -> Tensor:
    if estimate.clip_value is None:
        raise ValueError("clip_value is None: an objective on whole clips needs a scorer with a critic of whole clips")
    return estimate.clip_value
