"""The default objective: every token is credited with its error when withheld, by PPO over all tokens."""

from dataclasses import replace

from tats_ray.rl.objective import Estimate, Loss, Objective
from tats_ray.rl.ppo import ppo_loss
from tats_ray.rl.rollout import Rollout, withheld_advantage


class Withheld(Objective):
    """See ``docs/objective.md``; comes to rest at ``p ~ exp(q / tau)``."""

    def credit(self, rollout: Rollout, drawn_by: Estimate) -> Rollout:
        """Add the unbiased advantage of every token."""
        advantage = withheld_advantage(
            log_prob=rollout.log_prob,
            value=drawn_by.value,
            target_idx=rollout.target_idx,
            error=rollout.error,
            weight=rollout.weight,
        )
        return replace(rollout, advantage=advantage)

    def loss(self, estimate: Estimate, rollout: Rollout, *, temperature: float) -> Loss:
        """Return :func:`tats_ray.rl.ppo.ppo_loss`."""
        return ppo_loss(
            log_prob=estimate.log_prob,
            value=estimate.value,
            rollout=rollout,
            temperature=temperature,
            config=self.config,
        )
