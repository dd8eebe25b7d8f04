"""Ablation: AdaMAE's sampling loss (Bandara et al. 2023, arXiv 2211.09120) with PPO's ratio and clip.

Each hidden token's own log-probability times its error: no draw has this probability, so it is a surrogate and not the
likelihood of an action. No baseline, no critic in it, no entropy.
"""

from torch import Tensor

from tats_ray.rl.objective import Estimate, Loss, Objective
from tats_ray.rl.ppo import clipped_surrogate, policy_change
from tats_ray.rl.rollout import Rollout


class Surrogate(Objective):
    """``-mean_hidden min(r_i e_i, clip(r_i, 1 - eps, 1 + eps) e_i)``, e relative to its clip's mean.

    At ratio 1 its gradient is that of :func:`tats_ray.rl.policy_gradient.hidden_token_loss` on the relative errors.
    They are not negative, so the clip only ever stops a probability that has risen.
    """

    def loss(self, estimate: Estimate, rollout: Rollout, *, temperature: float) -> Loss:
        """Return the surrogate and the critic's loss; ``temperature`` has no part in it."""
        policy_loss, stats = surrogate_loss(estimate.log_prob, rollout, clip_eps=self.config.clip_eps)
        value_loss, value_stats = self.value_loss(estimate, rollout)
        stats |= policy_change(estimate.log_prob, rollout.log_prob) | {"policy_loss": policy_loss.detach()}
        return policy_loss + self.config.value_coef * value_loss, stats | value_stats


def surrogate_loss(log_prob: Tensor, rollout: Rollout, *, clip_eps: float) -> Loss:
    """Return the policy's part of the loss, and how much the clip does.

    Args:
        log_prob: ``[clips, tokens]``, the current policy, with gradient.
        rollout: What was drawn.
        clip_eps: Half width of the clip range.
    """
    ratio = (log_prob - rollout.log_prob).gather(1, rollout.target_idx).exp()
    surrogate, stats = clipped_surrogate(ratio, rollout.error, clip_eps=clip_eps)
    if rollout.decode_weight is None:
        return -surrogate.mean(1), stats
    return -(surrogate * rollout.decode_weight).sum(1) / rollout.decode_weight.sum(1), stats
