"""The schedule by hand."""

import math

import pytest

from tats_ray.evaluation.fitting import rate_at


def test_the_rate_rises_and_falls() -> None:
    rates = [rate_at(step, steps=10, warmup=3) for step in range(10)]
    assert rates[:4] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1.0])
    assert rates[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 7)) for k in range(1, 7)])
    assert min(rates) > 0


def test_one_step_is_taken_at_the_full_rate() -> None:
    assert rate_at(0, steps=1, warmup=0) == 1.0
