"""The smoothed top-k against finite differences of its own expectation, and what must hold whatever the noise."""

import pytest
import torch
from torch import Tensor

from tats_ray.tokenizer.topk import perturbed_top_k, top_k, unit_range

SCORES = torch.tensor([[0.1, 0.9, 0.35, 0.5, 0.45, 0.4, 0.2, 0.6]])
K = 4


def gradient(grad: Tensor, *, scores: Tensor = SCORES, samples: int = 500, sigma: float = 0.1, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    given = scores.clone().requires_grad_()
    perturbed_top_k(given, K, sigma=sigma, samples=samples).backward(grad)
    assert given.grad is not None
    return given.grad


def expectation(scores: Tensor, noise: Tensor, *, sigma: float) -> Tensor:
    """How often each token is kept, by sorting every sample."""
    order = (scores + sigma * noise).sort(dim=1, descending=True).indices[:, :K]
    return torch.zeros(noise.shape).scatter_(1, order, 1.0).mean(0)


def test_forward_is_the_plain_top_k_and_ties_go_to_the_first() -> None:
    assert torch.equal(perturbed_top_k(SCORES, K, sigma=0.1, samples=2), top_k(SCORES, K))
    assert top_k(SCORES, K)[0].nonzero().flatten().tolist() == [1, 3, 4, 7]
    assert top_k(torch.zeros(2, 9), 3).tolist() == [[1, 1, 1, 0, 0, 0, 0, 0, 0]] * 2


def test_gradient_agrees_with_finite_differences() -> None:
    sigma, step = 0.1, 0.02
    torch.manual_seed(1)
    noise = torch.randn(1_000_000, SCORES.shape[1])
    grad = torch.tensor([[0.3, -1.0, 0.5, 2.0, -0.7, 0.1, 0.9, -0.4]])
    slopes = []
    for token in range(SCORES.shape[1]):
        moved = torch.zeros_like(SCORES)
        moved[0, token] = step
        more, less = (expectation(SCORES + sign * moved, noise, sigma=sigma) for sign in (1, -1))
        slopes.append(float((grad[0] * (more - less)).sum() / (2 * step)))
    found = gradient(grad, samples=400_000, sigma=sigma)[0]
    # Standard error of an estimate of a covariance from n samples, about |g| sqrt(k) / (sigma sqrt(n)) = 0.05
    assert found.tolist() == pytest.approx(slopes, abs=0.15)
    assert max(map(abs, slopes)) > 2


def test_a_constant_in_the_incoming_gradient_changes_nothing() -> None:
    grad = torch.randn(SCORES.shape, generator=torch.Generator().manual_seed(3))
    plain, shifted = gradient(grad), gradient(grad + 1000)
    assert shifted.tolist()[0] == pytest.approx(plain.tolist()[0], abs=0.02)  # of rounding of the shifted gradient
    assert plain.abs().max() > 1


def test_a_choice_that_no_noise_changes_has_no_gradient_at_all() -> None:
    """The choice is constant, and so is <g, y> = 10; without a baseline that would be noise of 10 / (sigma sqrt(n))."""
    kept = top_k(SCORES, K)
    found = gradient(5 * (kept - kept.mean()), samples=100, sigma=0.001)
    assert found.abs().max() < 1e-2


def test_gradient_sums_to_nothing_over_the_tokens() -> None:
    """Raising all scores alike changes nothing."""
    found = gradient(torch.randn(SCORES.shape, generator=torch.Generator().manual_seed(4)), samples=200_000)
    assert float(found.sum()) == pytest.approx(0, abs=0.15)
    assert found.abs().max() > 1


def test_raising_a_score_raises_its_chance() -> None:
    for token in range(2, 6):
        grad = torch.zeros_like(SCORES)
        grad[0, token] = 1
        assert gradient(grad, samples=20_000)[0, token] > 0.5


def test_what_is_always_kept_takes_no_gradient_and_keeps_its_place() -> None:
    scores = SCORES.clone()
    scores[0, :2] = torch.inf
    scaled = unit_range(scores)
    assert scaled[0, :2].tolist() == [torch.inf] * 2
    assert scaled[0, 2:].min() == 0
    assert float(scaled[0, 2:].max()) == pytest.approx(1, abs=1e-4)
    found = gradient(torch.randn(SCORES.shape, generator=torch.Generator().manual_seed(5)), scores=scaled)
    assert found[0, :2].tolist() == [0, 0]
    assert found.isfinite().all()
    assert found[0, 2:].abs().max() > 0


def test_scores_that_rank_nothing_are_refused() -> None:
    broken = SCORES.clone()
    broken[0, 3] = torch.nan
    with pytest.raises(ValueError, match="must not be NaN"):
        perturbed_top_k(unit_range(broken), K, sigma=0.1, samples=2)
    with pytest.raises(ValueError, match="k must be in 1 to 8 tokens, got 9"):
        top_k(SCORES, 9)
    with pytest.raises(ValueError, match="sigma must be above 0, got 0"):
        perturbed_top_k(SCORES, K, sigma=0, samples=2)
    with pytest.raises(ValueError, match="samples must be at least 2, got 1"):
        perturbed_top_k(SCORES, K, sigma=0.1, samples=1)
