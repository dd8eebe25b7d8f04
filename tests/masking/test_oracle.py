"""Draws by ground truth: as strong as asked, uniform without movers, and refused without truth."""

import pytest
import torch

from tats_ray.masking.draws import draw_visible, exponential_clocks
from tats_ray.masking.motion import lift
from tats_ray.masking.oracle import OracleConfig, OracleScorer

PATCHES = torch.zeros(3, 64, 6, dtype=torch.uint8)


def shares() -> torch.Tensor:
    """A seventh of the first clip's tokens show a mover, in part; one token of the second; none of the third."""
    truth = torch.zeros(3, 64)
    truth[0, :9] = torch.linspace(0.2, 1.0, 9)
    truth[1, 5] = 0.25
    return truth


@pytest.mark.parametrize("wanted", [1.5, 2.0, 3.0])
def test_movers_are_drawn_as_often_as_asked(wanted: float) -> None:
    truth = shares()
    probability = OracleScorer(OracleConfig(lift=wanted))(PATCHES, truth).log_prob.exp()
    torch.testing.assert_close(lift(probability, truth)[:2], torch.full((2,), wanted), rtol=1e-4, atol=0)
    torch.testing.assert_close(probability[2], torch.full((64,), 1 / 64))


def test_single_draws_meet_movers_at_that_rate() -> None:
    draws, truth = 100_000, shares()[:1]
    log_prob = OracleScorer(OracleConfig(lift=3.0))(PATCHES[:1], truth).log_prob.expand(draws, -1)
    clocks = exponential_clocks((draws, 64), seed=0, step=0, device=torch.device("cpu"))
    met = truth[0][draw_visible(log_prob, clocks, count=1).order[:, 0]]
    # Four standard errors of a mean of values with a standard deviation of 0.33 at most.
    assert float(met.mean() / truth.mean()) == pytest.approx(3.0, abs=4 * 0.33 / draws**0.5 / float(truth.mean()))


def test_pixels_are_not_looked_at() -> None:
    scorer, truth = OracleScorer(OracleConfig()), shares()
    noise = torch.randint(0, 256, PATCHES.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(scorer(PATCHES, truth).logits, scorer(noise, truth).logits)


def test_clips_without_their_truth_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kind=oracle draws by the ground truth.*came without; take videos of"):
        OracleScorer(OracleConfig())(PATCHES, None)


def test_a_worker_without_clips_needs_no_truth() -> None:
    assert OracleScorer(OracleConfig())(PATCHES[:0], None).logits.shape == (0, 64)
