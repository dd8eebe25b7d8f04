"""AdaMAE's loss with a ratio: its gradient at ratio 1, its clip by hand, and what is not in it."""

import math

import pytest
import torch
from torch import Tensor

from tats_ray.rl.objective import Estimate
from tats_ray.rl.policy_gradient import hidden_token_loss
from tats_ray.rl.ppo import PPOConfig, critic_loss
from tats_ray.rl.rollout import Rollout, relative_error
from tats_ray.rl.surrogate import Surrogate, surrogate_loss


def rollout(log_prob: Tensor, target_idx: Tensor, error: Tensor) -> Rollout:
    return Rollout(torch.zeros(0), log_prob, target_idx, error, torch.ones_like(error))


def test_gradient_at_ratio_one_is_adamaes_on_relative_errors() -> None:
    noise = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 8, generator=noise).requires_grad_()
    target_idx = torch.stack([torch.randperm(8, generator=noise)[:5] for _ in range(3)])
    error = 4 * torch.rand(3, 5, generator=noise)
    log_prob = torch.log_softmax(logits, 1)
    told = rollout(log_prob.detach(), target_idx, relative_error(error, torch.ones_like(error)))
    loss, _ = surrogate_loss(log_prob, told, clip_eps=0.2)
    (found,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    adamae = hidden_token_loss(log_prob, target_idx, error / error.mean(1, keepdim=True))
    (wanted,) = torch.autograd.grad(adamae.sum(), logits)
    assert found.abs().max() > 0.01
    assert torch.allclose(found, wanted, atol=1e-7)  # float32 rounding of terms below one


def test_only_a_probability_that_rose_is_stopped() -> None:
    # Ratios 1.4 and 0.6, clipped to 1.2 and 0.8; the third token is visible.
    log_prob = torch.tensor([[0.35, 0.15, 0.5]]).log().requires_grad_()
    old = torch.tensor([[0.25, 0.25, 0.5]]).log()
    told = rollout(old, torch.tensor([[0, 1]]), torch.tensor([[0.5, 1.5]]))
    loss, stats = surrogate_loss(log_prob, told, clip_eps=0.2)
    assert loss.item() == pytest.approx(-(0.5 * 1.2 + 1.5 * 0.6) / 2)
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob)
    assert gradient.tolist() == [pytest.approx([0.0, -1.5 * 0.6 / 2, 0.0])]
    assert (stats["clipfrac"].item(), stats["binding_fraction"].item()) == (1.0, 0.5)


def test_there_is_no_entropy_and_no_baseline_in_it() -> None:
    log_prob = torch.tensor([[0.5, 0.3, 0.2]]).log()
    told = rollout(log_prob, torch.tensor([[1, 2]]), torch.tensor([[0.6, 1.4]]))
    for value in (torch.zeros(1, 3), torch.tensor([[3.0, -1.0, 2.0]])):
        for temperature in (0.02, 10.0):
            loss, stats = Surrogate(PPOConfig(value_coef=0.25)).loss(
                Estimate(log_prob, value), told, temperature=temperature
            )
            assert stats["policy_loss"].item() == pytest.approx(-1.0)  # ratios of 1, errors of mean 1
            assert loss.item() == pytest.approx(-1.0 + 0.25 * critic_loss(value, told).item())
    assert stats["entropy"].item() == pytest.approx(-sum(p * math.log(p) for p in (0.5, 0.3, 0.2)))  # told all the same
