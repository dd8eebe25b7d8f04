"""The sampler's PPO objective: clipped surrogate over all tokens, entropy temperature, per-token critic.

``L = - sum_i p_old,i min(r_i A_i, clip(r_i, 1 - eps, 1 + eps) A_i) - tau H(p) + c_v sum_dec w (V - e)^2 / sum_dec w``
with ``r = p / p_old``: Eq. 7 of Schulman et al. 2017 (arXiv 1707.06347), its expectation taken exactly over the tokens
instead of over sampled actions. Its stationary point is ``p_i ~ exp(q_i / tau)``, q being the error of a withheld token
in units of its clip's mean error.
"""

import math

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tats_ray.rl.rollout import Rollout


class PPOConfig(BaseModel):
    """How the sampler learns from its rollouts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    rollout_steps: int = Field(default=4, ge=1)
    """Training steps gathered before the sampler is updated."""
    update_epochs: int = Field(default=3, ge=1)
    """Passes over the gathered rollouts; with 1 pass over 1 step the ratio is always 1 and the clip has no effect."""
    clip_eps: float = Field(default=0.2, gt=0, lt=1)
    """Half width of the interval to which the probability ratio is clipped."""
    temperature: float = Field(default=1.0, ge=0.02, le=10)
    """Entropy weight tau, in units of a clip's mean error: lower prefers hard tokens more strongly."""
    target_nats: float | None = Field(default=None, gt=0, lt=2)
    """Adapt the temperature until the policy is this many nats from uniform (.05 mild, .15 strong); null keeps it."""
    value_coef: float = Field(default=0.5, ge=0)
    """Weight of the critic's squared error."""
    target_kl: float = Field(default=0.03, gt=0)
    """An update stops when the new policy is further than this from the one that drew, in nats."""
    learning_rate: float = Field(default=1.5e-3, gt=0)
    """Of the sampler's own AdamW; constant. At large sizes choose it so that ppo/approx_kl is .004 to .008."""
    max_grad_norm: float = Field(default=0.5, gt=0)
    """The sampler's gradient is scaled down to this norm."""


def entropy(log_prob: Tensor) -> Tensor:
    """Return each clip's entropy in nats, ``[clips]``."""
    return -(log_prob.exp() * log_prob).sum(1)


def critic_loss(value: Tensor, rollout: Rollout) -> Tensor:
    """Return each clip's weighted squared error of the critic on the decoded tokens, ``[clips]``."""
    gap = value.float().gather(1, rollout.target_idx) - rollout.error
    return (rollout.weight * gap.square()).sum(1) / rollout.weight.sum(1)


def ppo_loss(
    *, log_prob: Tensor, value: Tensor, rollout: Rollout, temperature: float, config: PPOConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and its diagnostics, each of shape ``[clips]``; the caller sums, reduces and divides.

    Args:
        log_prob: ``[clips, tokens]``, the current policy, float32, with gradient.
        value: ``[clips, tokens]``, the current critic, with gradient.
        rollout: What was drawn; its ``advantage`` must be set.
        temperature: Weight of the entropy, >= 0.
        config: Clip range and critic weight.

    Returns:
        The loss, and detached diagnostics under CleanRL's names: ``approx_kl`` (here the exact KL of old to new),
        ``old_approx_kl``, ``clipfrac`` (share of ratios outside the clip range), ``policy_loss``, ``value_loss``,
        ``entropy``; beside them ``binding_fraction`` (share of ratios whose gradient the clip removes).
    """
    if rollout.advantage is None:
        raise ValueError("rollout.advantage is None: this rollout was gathered while the policy was off")
    ratio = (log_prob - rollout.log_prob).exp()
    surrogate, stats = clipped_surrogate(ratio, rollout.advantage, clip_eps=config.clip_eps)
    policy_loss = -(rollout.log_prob.exp() * surrogate).sum(1)
    value_loss = critic_loss(value, rollout)
    loss = policy_loss - temperature * entropy(log_prob) + config.value_coef * value_loss
    stats |= policy_change(log_prob, rollout.log_prob) | {"policy_loss": policy_loss, "value_loss": value_loss}
    return loss, {name: value.detach() for name, value in stats.items()}


def clipped_surrogate(ratio: Tensor, advantage: Tensor, *, clip_eps: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return ``min(r A, clip(r, 1 - eps, 1 + eps) A)`` of every choice, and how much the clip does in each clip.

    Args:
        ratio: ``[clips, choices]``, new over old probability.
        advantage: ``[clips, choices]``, or ``[clips, 1]`` where all choices of a clip share one.
        clip_eps: Half width of the clip range.
    """
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
    with torch.no_grad():
        outside = (ratio - clipped) * advantage
        stats = {
            "clipfrac": (ratio != clipped).float().mean(1),
            "binding_fraction": (outside > 0).float().mean(1),
        }
    return torch.minimum(ratio * advantage, clipped * advantage), stats


@torch.no_grad()
def policy_change(log_prob: Tensor, old_log_prob: Tensor) -> dict[str, Tensor]:
    """Return each clip's entropy under the new policy, and the KL of the old policy to the new one in two ways."""
    log_ratio = log_prob - old_log_prob
    old = old_log_prob.exp()
    return {
        "entropy": entropy(log_prob),
        "old_approx_kl": -(old * log_ratio).sum(1),
        "approx_kl": (old * (log_ratio.exp() - 1 - log_ratio)).sum(1),
    }


def adapt_temperature(temperature: float, *, nats: float, target_nats: float) -> float:
    """Move the temperature one bounded step towards a policy that is ``target_nats`` from uniform.

    Args:
        temperature: The present one.
        nats: Measured distance ``log N - H`` of the policy from uniform.
        target_nats: The wanted distance, > 0.
    """
    step = 0.1 * (nats - target_nats) / target_nats
    return min(10.0, max(0.02, temperature * math.exp(min(0.05, max(-0.05, step)))))
