"""Student's t against scipy, the interval by hand and by simulation, and what it lets one say."""

import math

import numpy as np
import pytest
from scipy import stats

from tats_ray.evaluation.paired import Interval, paired_interval, t_quantile, verdict


@pytest.mark.parametrize("level", [0.01, 0.5, 0.9, 0.95, 0.99, 0.9999])
@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 29, 100, 101, 1000])
def test_quantiles_are_those_of_scipy(degrees: int, level: float) -> None:
    # A share near 1 is known to 1e-16, which the tail of few degrees magnifies.
    assert t_quantile(level, degrees=degrees) == pytest.approx(stats.t.ppf((1 + level) / 2, degrees), rel=1e-9)


def test_the_interval_is_that_of_scipy() -> None:
    differences = [0.03, 0.01, 0.04, -0.01]
    found = paired_interval(differences)
    theirs = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (found.mean, found.n) == (pytest.approx(0.0175), 4)
    assert (found.low, found.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    wide = paired_interval(differences, level=0.99)
    assert wide.low < found.low < found.high < wide.high


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_contains_the_truth_nineteen_times_in_twenty(seeds: int) -> None:
    noise = np.random.default_rng(seeds)
    trials = 4000
    inside = 0
    for differences in noise.normal(0.02, 0.03, (trials, seeds)):
        found = paired_interval(differences.tolist())
        inside += found.low <= 0.02 <= found.high
    # Exact for normal differences, so only the simulation's own spread: sqrt(.95 * .05 / 4000) = 0.0034, times four.
    assert inside / trials == pytest.approx(0.95, abs=0.014)


def test_one_seed_says_nothing_of_the_spread() -> None:
    found = paired_interval([0.2])
    assert (found.mean, found.low, found.high, found.n) == (0.2, -math.inf, math.inf, 1)
    assert verdict(found) == "cannot tell"


@pytest.mark.parametrize(
    ("differences", "wanted"),
    [
        ([0.03, 0.04, 0.05], "better"),
        ([-0.03, -0.04, -0.05], "worse"),
        ([0.03, -0.01, 0.02], "cannot tell"),
        ([0.03, 0.06], "cannot tell"),  # t of one degree is 12.7
        ([0.0, 0.0, 0.0], "cannot tell"),
        ([0.05, 0.35 - 0.30], "cannot tell"),  # equal but for rounding: counts over few videos
    ],
)
def test_the_verdict_follows_from_the_interval(differences: list[float], wanted: str) -> None:
    assert verdict(paired_interval(differences)) == wanted


@pytest.mark.parametrize(
    ("interval", "wanted"),
    [
        (Interval(mean=1.0, low=0.0, high=2.0, n=5), "cannot tell"),  # an end at 0 leaves it in
        (Interval(mean=-1.0, low=-2.0, high=0.0, n=5), "cannot tell"),
        (Interval(mean=1.0, low=0.5, high=1.5, n=1), "cannot tell"),
        (Interval(mean=1.0, low=0.5, high=1.5, n=2), "better"),
    ],
)
def test_verdicts_at_the_edges(interval: Interval, wanted: str) -> None:
    assert verdict(interval) == wanted


@pytest.mark.parametrize("differences", [[], [0.1, float("nan")], [float("inf")]])
def test_differences_that_are_no_numbers_are_refused(differences: list[float]) -> None:
    with pytest.raises(ValueError, match="differences must be one or more finite numbers"):
        paired_interval(differences)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\)"):
        paired_interval([0.1, 0.2], level=level)


def test_no_degrees_are_refused() -> None:
    with pytest.raises(ValueError, match="degrees must be at least 1, got 0"):
        t_quantile(0.95, degrees=0)
