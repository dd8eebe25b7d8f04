"""AdaMAE's sampling loss against the gradient that its formula has."""

import pytest
import torch

from tats_ray.rl.policy_gradient import hidden_token_loss


def test_loss_by_hand() -> None:
    log_prob = torch.tensor([[0.5, 0.3, 0.2]]).log()
    loss = hidden_token_loss(log_prob, torch.tensor([[0, 2]]), torch.tensor([[1.0, 2.0]]))
    assert loss.item() == pytest.approx((0.693147 + 2 * 1.609438) / 2, rel=1e-5)


def test_gradient_is_the_published_one() -> None:
    noise = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, generator=noise).requires_grad_()
    target_idx = torch.tensor([[0, 2, 3, 5], [1, 2, 4, 5]])
    error = torch.rand(2, 4, generator=noise, requires_grad=True)
    hidden_token_loss(torch.log_softmax(logits, 1), target_idx, error).sum().backward()
    # d(-L) / dl_j = (e_j [j hidden] - p_j sum_hidden e) / hidden
    errors = error.detach()
    wanted = (
        torch.zeros(2, 6).scatter(1, target_idx, errors) - logits.detach().softmax(1) * errors.sum(1, keepdim=True)
    ) / 4
    assert logits.grad is not None
    assert torch.allclose(-logits.grad, wanted, atol=1e-6)  # float32 rounding of terms below one
    assert error.grad is None
