"""Objective: what teaches the policy, from what is remembered of a draw to the loss of a minibatch.

In all of them the critic learns in the same way: it is the switch of the stages, a diagnostic, and shapes what actor
and critic share. So two runs that differ in their objective differ in what teaches the policy alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from tats_ray.rl.ppo import PPOConfig, critic_loss
from tats_ray.rl.rollout import Rollout

Loss = tuple[Tensor, dict[str, Tensor]]
"""A loss and its detached diagnostics, each ``[clips]``; the caller sums, reduces and divides."""


@dataclass(frozen=True)
class Estimate:
    """What the policy and the critics say of a batch of clips; float32."""

    log_prob: Tensor  # [clips, tokens], of the policy
    value: Tensor  # [clips, tokens], of the critic
    clip_value: Tensor | None = None  # [clips], of the critic of whole clips, where the objective has one


class MeanOfAll(Protocol):
    """A mean over all workers, equal on all of them."""

    def __call__(self, total: Tensor, *, count: int) -> float:
        """Return the sum of all workers' ``total`` over that of their ``count``."""
        ...


class Objective(ABC):
    """One way to teach the policy."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config

    def logits(self, actor: Tensor, value: Tensor, *, temperature: float) -> Tensor:
        """Return the policy's logits from the outputs of actor and critic, all ``[clips, tokens]``."""
        return actor

    def credit(self, rollout: Rollout, drawn_by: Estimate) -> Rollout:
        """Add what has to be known of the policy and the critics that drew, once a batch; without gradient."""
        return rollout

    def prepare(self, gathered: Sequence[Sequence[Rollout]], mean: MeanOfAll) -> Sequence[Sequence[Rollout]]:
        """Add what all rollouts of an update tell together, once an update on every worker."""
        return gathered

    def value_loss(self, estimate: Estimate, rollout: Rollout) -> Loss:
        """Return what teaches the critics, without its weight."""
        loss = critic_loss(estimate.value, rollout)
        return loss, {"value_loss": loss.detach()}

    @abstractmethod
    def loss(self, estimate: Estimate, rollout: Rollout, *, temperature: float) -> Loss:
        """Return the whole loss of a minibatch whose visible tokens the policy drew.

        The diagnostics hold ``approx_kl``, by which an update may end early.
        """
