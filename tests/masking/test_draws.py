"""Draws against the enumeration of all draws, and the clocks that every strategy shares."""

import torch

from tats_ray.masking.draws import Scores, draw_visible, exponential_clocks, uniform_log_prob

CPU = torch.device("cpu")
LOG_PROB = torch.tensor([[0.35, 0.25, 0.2, 0.15, 0.05]]).log()


def test_draws_are_ordered_draws_without_replacement() -> None:
    draws, p = 400_000, LOG_PROB[0].double().exp()
    clocks = exponential_clocks((draws, 5), seed=0, step=0, device=CPU)
    order = draw_visible(LOG_PROB.expand(draws, -1), clocks, count=2).order
    counts = torch.zeros(25).index_add(0, order[:, 0] * 5 + order[:, 1], torch.ones(draws)).view(5, 5)
    wanted = p[:, None] * p[None, :] / (1 - p[:, None])  # the first, then the second among the others
    wanted.fill_diagonal_(0)
    # Four standard errors of a share; cells with no mass must stay empty.
    assert ((counts / draws - wanted).abs() <= 4 * (wanted * (1 - wanted) / draws).sqrt()).all()


def test_the_threshold_is_the_clock_of_the_last_visible_token() -> None:
    clocks = exponential_clocks((64, 5), seed=0, step=1, device=CPU)
    draw = draw_visible(LOG_PROB.expand(64, -1), clocks, count=3)
    times = clocks / LOG_PROB.exp()
    assert torch.allclose(draw.threshold, times.sort(1).values[:, 2])  # one float32 logarithm and back
    assert torch.equal(draw.order, times.argsort(1)[:, :3])


def test_a_draw_keeps_the_policy_without_its_gradient() -> None:
    scores = Scores(logits=torch.zeros(2, 5, requires_grad=True))
    draw = draw_visible(scores.log_prob, exponential_clocks((2, 5), seed=0, step=0, device=CPU), count=2)
    assert not draw.log_prob.requires_grad
    assert torch.equal(draw.log_prob, scores.log_prob.detach())


def test_clocks_are_a_function_of_seed_and_step() -> None:
    first = exponential_clocks((4, 9), seed=3, step=7, device=CPU)
    torch.manual_seed(99)
    assert torch.equal(first, exponential_clocks((4, 9), seed=3, step=7, device=CPU))
    assert not torch.equal(first, exponential_clocks((4, 9), seed=3, step=8, device=CPU))
    assert not torch.equal(first, exponential_clocks((4, 9), seed=4, step=7, device=CPU))


def test_clocks_of_held_out_clips_exist() -> None:
    held_out = exponential_clocks((4, 9), seed=0, step=-1, device=CPU)
    assert not torch.equal(held_out, exponential_clocks((4, 9), seed=0, step=0, device=CPU))


def test_clocks_do_not_touch_the_global_generator() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    exponential_clocks((4, 9), seed=0, step=0, device=CPU)
    assert torch.equal(torch.rand(1), wanted)


def test_log_probabilities_sum_to_one() -> None:
    logits = 30 * torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Scores(logits=logits).log_prob.exp().sum(1), torch.ones(8))
    assert torch.allclose(uniform_log_prob(2, 1568, CPU).exp().sum(1), torch.ones(2))
    assert uniform_log_prob(2, 1568, CPU).shape == (2, 1568)
