"""PPO's numbers by hand, its diagnostics against torch, and where it comes to rest."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from tats_ray.rl.ppo import PPOConfig, adapt_temperature, critic_loss, entropy, ppo_loss
from tats_ray.rl.rollout import Rollout


def rollout(log_prob: Tensor, advantage: Tensor | None, *, error: Tensor | None = None) -> Rollout:
    """Of clips whose only decoded token is the first, unless errors of more are given."""
    error = torch.ones(len(log_prob), 1) if error is None else error
    target_idx = torch.arange(error.shape[1]).expand_as(error)
    return Rollout(torch.zeros(0), log_prob, target_idx, error, torch.ones_like(error), advantage)


def halves(advantage: list[float]) -> Rollout:
    return rollout(torch.full((1, 2), math.log(0.5)), torch.tensor([advantage]))


@pytest.mark.parametrize(
    ("advantage", "policy_loss", "binding"),
    [
        # Ratios 1.4 and 0.6, clipped to 1.2 and 0.8.
        ([1.0, -1.0], -(0.5 * 1.2 - 0.5 * 0.8), 1.0),  # both moved far enough already: clipped
        ([-1.0, 1.0], -(-0.5 * 1.4 + 0.5 * 0.6), 0.0),  # both moved the wrong way: pulled back in full
        ([1.0, 1.0], -(0.5 * 1.2 + 0.5 * 0.6), 0.5),
    ],
)
def test_clipped_surrogate_by_hand(advantage: list[float], policy_loss: float, binding: float) -> None:
    log_prob = torch.tensor([[0.7, 0.3]]).log().requires_grad_()
    value = torch.tensor([[3.0, 1.0]])
    loss, stats = ppo_loss(
        log_prob=log_prob, value=value, rollout=halves(advantage), temperature=0.5, config=PPOConfig(value_coef=0.25)
    )
    nats = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    assert stats["policy_loss"].item() == pytest.approx(policy_loss, abs=1e-6)
    assert stats["value_loss"].item() == pytest.approx(4.0)
    assert stats["entropy"].item() == pytest.approx(nats, abs=1e-6)
    assert loss.item() == pytest.approx(policy_loss - 0.5 * nats + 0.25 * 4.0, abs=1e-6)
    assert stats["clipfrac"].item() == 1.0
    assert stats["binding_fraction"].item() == binding
    assert not any(value.requires_grad for value in stats.values())


def test_a_binding_clip_stops_the_gradient() -> None:
    log_prob = torch.tensor([[0.7, 0.3]]).log().requires_grad_()
    value = torch.ones(1, 2)
    config = PPOConfig(value_coef=0.0)
    loss, _ = ppo_loss(log_prob=log_prob, value=value, rollout=halves([1.0, 1.0]), temperature=0.0, config=config)
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob)
    # Only the second ratio is inside: d(-p_old r A) / d log p = -.5 * .6.
    assert gradient.tolist() == [pytest.approx([0.0, -0.3], abs=1e-6)]


def test_critic_loss_by_hand() -> None:
    value = torch.tensor([[9.0, 1.5, 9.0, 0.0]])
    told = Rollout(
        observation=torch.zeros(0),
        log_prob=torch.zeros(1, 4),
        target_idx=torch.tensor([[1, 3]]),
        error=torch.tensor([[1.0, 1.0]]),
        weight=torch.tensor([[1.0, 3.0]]),
    )
    assert critic_loss(value, told).item() == pytest.approx((1 * 0.25 + 3 * 1.0) / 4)


def test_the_critic_learns_from_its_own_loss_alone() -> None:
    value = torch.ones(1, 2, requires_grad=True)
    log_prob = torch.full((1, 2), math.log(0.5))
    told = halves([1.0, -2.0])
    loss, _ = ppo_loss(log_prob=log_prob, value=value, rollout=told, temperature=1.0, config=PPOConfig(value_coef=0.0))
    (gradient,) = torch.autograd.grad(loss.sum(), value)
    assert gradient.abs().sum() == 0


def test_the_first_minibatch_has_ratio_one() -> None:
    log_prob = torch.log_softmax(torch.randn(3, 7, generator=torch.Generator().manual_seed(0)), 1)
    told = rollout(log_prob, torch.randn(3, 7, generator=torch.Generator().manual_seed(1)))
    _, stats = ppo_loss(log_prob=log_prob, value=torch.ones(3, 7), rollout=told, temperature=1.0, config=PPOConfig())
    for name in ("approx_kl", "old_approx_kl", "clipfrac", "binding_fraction"):
        assert stats[name].tolist() == [0.0, 0.0, 0.0]


def test_kl_is_that_of_the_categorical_distributions() -> None:
    noise = torch.Generator().manual_seed(0)
    old, new = torch.log_softmax(torch.randn(2, 4, 9, generator=noise), -1)
    _, stats = ppo_loss(
        log_prob=new, value=torch.ones(4, 9), rollout=rollout(old, old), temperature=1.0, config=PPOConfig()
    )
    wanted = kl_divergence(Categorical(logits=old), Categorical(logits=new))
    assert torch.allclose(stats["approx_kl"], wanted, atol=1e-5)  # float32 sums of nine terms of order one
    assert torch.allclose(stats["old_approx_kl"], wanted, atol=1e-5)
    assert torch.allclose(entropy(new), Categorical(logits=new).entropy(), atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_a_table_policy_converges_to_the_boltzmann_distribution_of_the_errors(temperature: float) -> None:
    error = torch.tensor([[0.3, 0.8, 1.0, 1.4, 1.5]])
    logits = torch.zeros(1, 5, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.98)
    for _ in range(200):
        old = torch.log_softmax(logits.detach(), 1)
        told = rollout(old, error - (old.exp() * error).sum(), error=error)
        for _ in range(3):
            loss, _ = ppo_loss(
                log_prob=torch.log_softmax(logits, 1),
                value=error,
                rollout=told,
                temperature=temperature,
                config=PPOConfig(),
            )
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
        schedule.step()
    # The rate has fallen to 1e-3, which bounds what is left of Adam's circling.
    assert torch.allclose(logits.softmax(1), (error / temperature).softmax(1), atol=1e-3)


def test_a_rollout_of_the_critic_stage_is_refused() -> None:
    told = rollout(torch.full((1, 2), math.log(0.5)), None)
    with pytest.raises(ValueError, match="policy was off"):
        ppo_loss(log_prob=told.log_prob, value=torch.ones(1, 2), rollout=told, temperature=1.0, config=PPOConfig())


@pytest.mark.parametrize(
    ("nats", "wanted"),
    [
        (0.10, 1.0),  # on target
        (0.12, math.exp(0.02)),  # a fifth too far from uniform: hotter by a tenth of that
        (0.08, math.exp(-0.02)),
        (1.00, math.exp(0.05)),  # the step is bounded
        (0.00, math.exp(-0.05)),
    ],
)
def test_the_temperature_moves_towards_the_target(nats: float, wanted: float) -> None:
    assert adapt_temperature(1.0, nats=nats, target_nats=0.1) == pytest.approx(wanted)


def test_the_temperature_stays_in_its_range() -> None:
    assert adapt_temperature(0.02, nats=0.0, target_nats=0.1) == 0.02
    assert adapt_temperature(10.0, nats=1.0, target_nats=0.1) == 10.0
