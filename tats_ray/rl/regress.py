"""Ablation without an actor: the policy is read off the critic, and only the critic learns."""

from torch import Tensor

from tats_ray.rl.objective import Estimate, Loss, Objective
from tats_ray.rl.ppo import policy_change
from tats_ray.rl.rollout import Rollout


class Regress(Objective):
    """``p = softmax(V / tau)``: where V has learnt q, this is the rest point of the default objective at once."""

    def logits(self, actor: Tensor, value: Tensor, *, temperature: float) -> Tensor:
        """Return ``V / tau``."""
        return value / temperature

    def loss(self, estimate: Estimate, rollout: Rollout, *, temperature: float) -> Loss:
        """Return the critic's weighted squared error; the policy's figures are diagnostics."""
        loss, stats = self.value_loss(estimate, rollout)
        return self.config.value_coef * loss, stats | policy_change(estimate.log_prob, rollout.log_prob)
