"""The schedule by hand, and what decays."""

import math

import pytest
import torch
from torch import nn

from tats_ray.evaluation.fitting import FittingConfig, fit_head, rate_at
from tats_ray.evaluation.standardize import fit_standardizer


def test_the_rate_rises_and_falls() -> None:
    rates = [rate_at(step, steps=10, warmup=3) for step in range(10)]
    assert rates[:4] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1.0])
    assert rates[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 7)) for k in range(1, 7)])
    assert min(rates) > 0


def test_one_step_is_taken_at_the_full_rate() -> None:
    assert rate_at(0, steps=1, warmup=0) == 1.0


def test_matrices_decay_and_biases_do_not() -> None:
    """On rows of zeros a matrix has no gradient, and a bias that is right already has none either."""
    rows = torch.zeros(8, 3)
    head = nn.Linear(3, 2)
    nn.init.constant_(head.weight, 1.0)
    nn.init.constant_(head.bias, 1.0)
    config = FittingConfig(epochs=1, batch=8, learning_rate=0.5, weight_decay=0.1, warmup_share=0)
    labels = torch.arange(8) % 2
    fit_head(head, rows, labels, standardizer=fit_standardizer(rows), config=config, seed=0)
    torch.testing.assert_close(head.weight.detach(), torch.full((2, 3), 1 - 0.5 * 0.1))
    torch.testing.assert_close(head.bias.detach(), torch.ones(2))
