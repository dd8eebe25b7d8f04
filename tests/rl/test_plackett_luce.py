"""The likelihood of a drawn order against all orders, written out, and against the draws themselves."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from tats_ray.masking.draws import draw_visible, exponential_clocks
from tats_ray.rl.plackett_luce import pick_log_prob

LOG_PROB = torch.tensor([[0.35, 0.25, 0.2, 0.15, 0.05]]).log()
PAIRS = torch.tensor(list(permutations(range(5), 2)))


def of_pairs() -> Tensor:
    """Probability of every ordered pair of five tokens, ``[20]``."""
    return pick_log_prob(LOG_PROB.expand(len(PAIRS), -1), PAIRS).sum(1).exp()


def test_pairs_by_the_definition() -> None:
    p = LOG_PROB[0].double().exp()
    wanted = [p[first] * p[second] / (1 - p[first]) for first, second in PAIRS.tolist()]
    assert of_pairs().tolist() == pytest.approx([float(value) for value in wanted], rel=1e-5)


def test_all_orders_have_probability_one_together() -> None:
    assert of_pairs().sum().item() == pytest.approx(1, abs=1e-6)


def test_a_single_pick_has_its_own_probability() -> None:
    found = pick_log_prob(LOG_PROB.expand(5, -1), torch.arange(5)[:, None])
    assert torch.allclose(found[:, 0], LOG_PROB[0], atol=1e-6)  # they sum to 1 within float32 rounding


def test_draws_come_as_often_as_the_likelihood_says() -> None:
    draws = 400_000
    clocks = exponential_clocks((draws, 5), seed=0, step=0, device=torch.device("cpu"))
    order = draw_visible(LOG_PROB.expand(draws, -1), clocks, count=2).order
    counts = torch.bincount(order[:, 0] * 5 + order[:, 1], minlength=25)
    found = counts[PAIRS[:, 0] * 5 + PAIRS[:, 1]] / draws
    wanted = of_pairs()
    assert ((found - wanted).abs() <= 4 * (wanted * (1 - wanted) / draws).sqrt()).all()  # four standard errors


def test_picks_that_hold_all_the_probability_leave_a_likelihood_to_the_next() -> None:
    # 1 - p of the first pick is 0 in float32; what is left is e^-50 (1 + e^-3), nearly all of it the second pick's.
    logits = torch.tensor([[0.0, -50.0, -53.0]], requires_grad=True)
    found = pick_log_prob(torch.log_softmax(logits, 1), torch.tensor([[0, 1]]))
    assert found.tolist() == [pytest.approx([0.0, -0.048587], abs=1e-4)]  # logits of 50 have steps of 4e-6
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    # 1 - softmax over what is left: e^-3 / (1 + e^-3) for the second pick against the third token.
    assert gradient.tolist() == [pytest.approx([0.0, 0.047426, -0.047426], abs=1e-4)]


def test_picking_every_token_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer tokens than the 5"):
        pick_log_prob(LOG_PROB, torch.arange(5)[None])
