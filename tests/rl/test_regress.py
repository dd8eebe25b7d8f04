"""The policy that is read off the critic: where it comes to rest, and that nothing else teaches it."""

import pytest
import torch

from tats_ray.masking.draws import draw_visible, exponential_clocks
from tats_ray.masking.plan import hidden_tokens
from tats_ray.rl.objective import Estimate
from tats_ray.rl.ppo import PPOConfig, entropy
from tats_ray.rl.regress import Regress
from tats_ray.rl.rollout import Rollout, hiding_weight

CPU = torch.device("cpu")


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_a_table_comes_to_rest_at_the_boltzmann_distribution_of_the_withheld_errors(temperature: float) -> None:
    objective, draws = Regress(PPOConfig()), 512
    error = torch.tensor([0.3, 0.8, 1.0, 1.4, 1.5])
    value = torch.ones(1, 5, requires_grad=True)
    unused = torch.zeros(1, 5, requires_grad=True)
    optimizer = torch.optim.Adam([value], lr=0.05)
    noise = torch.Generator().manual_seed(0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.98)
    for step in range(250):
        with torch.no_grad():
            old = torch.log_softmax(objective.logits(unused, value, temperature=temperature), 1).expand(draws, -1)
        clocks = exponential_clocks((draws, 5), seed=0, step=step, device=CPU)
        draw = draw_visible(old, clocks, count=2)
        target_idx = hidden_tokens(draw.order, num_tokens=5)
        told = error[target_idx] + 0.1 * torch.randn(target_idx.shape, generator=noise)
        rollout = Rollout(
            torch.zeros(0), old, target_idx, told, hiding_weight(old, draw.threshold).gather(1, target_idx)
        )
        log_prob = torch.log_softmax(objective.logits(unused, value, temperature=temperature), 1).expand(draws, -1)
        loss, _ = objective.loss(Estimate(log_prob, value.expand(draws, -1)), rollout, temperature=temperature)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        schedule.step()
    found = torch.softmax(objective.logits(unused, value, temperature=temperature), 1)
    # Noise of 0.1 over some hundred answers a step, the last dozens of which are averaged: 1e-3 of V, less of p.
    assert torch.allclose(found, torch.softmax(error / temperature, 0)[None], atol=3e-3)
    assert unused.grad is None


def test_diagnostics_are_of_the_policy_that_is_read_off() -> None:
    objective = Regress(PPOConfig(value_coef=0.25))
    value = torch.tensor([[0.5, 1.0, 2.0]])
    log_prob = torch.log_softmax(objective.logits(torch.zeros(1, 3), value, temperature=0.5), 1)
    assert torch.allclose(log_prob, torch.log_softmax(torch.tensor([[1.0, 2.0, 4.0]]), 1))
    old = torch.full((1, 3), 1 / 3).log()
    rollout = Rollout(torch.zeros(0), old, torch.tensor([[0, 2]]), torch.ones(1, 2), torch.tensor([[1.0, 3.0]]))
    loss, stats = objective.loss(Estimate(log_prob, value), rollout, temperature=0.5)
    assert loss.item() == pytest.approx(0.25 * (0.5**2 + 3 * 1.0) / 4)
    assert stats["value_loss"].item() == pytest.approx(loss.item() / 0.25)
    assert torch.equal(stats["entropy"], entropy(log_prob))
    assert stats["approx_kl"].item() == pytest.approx((old.exp() * (old - log_prob)).sum().item(), abs=1e-6)
    assert "policy_loss" not in stats
