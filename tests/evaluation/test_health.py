"""Effective rank and spectrum of matrices whose singular values are known."""

import math

import numpy as np
import pytest
import torch

from tats_ray.evaluation.health import centred_rank, rankme, spectrum


def of_singular_values(values: list[float], rows: int = 30) -> torch.Tensor:
    """With orthogonal columns of mean zero, so that centring changes nothing."""
    noise = np.random.default_rng(0).standard_normal((rows, len(values) + 1))
    noise[:, 0] = 1
    left = np.linalg.qr(noise)[0][:, 1:]
    right = np.linalg.qr(np.random.default_rng(1).standard_normal((len(values), len(values))))[0]
    return torch.tensor(left @ np.diag(values) @ right)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rankme_of_equal_directions_is_their_number(rank: int) -> None:
    features = of_singular_values([2.0] * rank + [0.0] * (8 - rank))
    # Each of up to 8 directions without weight adds the epsilon's 1e-7 * log 1e7, 1.3e-5 in all.
    assert rankme(features) == pytest.approx(rank, rel=2e-5)


def test_rankme_by_hand() -> None:
    # Shares 1/2, 1/4, 1/4: entropy 1.5 log 2.
    assert rankme(of_singular_values([2.0, 1.0, 1.0])) == pytest.approx(2**1.5, rel=1e-5)
    share = np.array([0.5, 0.25, 0.25, 0, 0, 0]) + 1e-7  # the epsilon is seen where there is nothing else
    wanted = math.exp(-(share * np.log(share)).sum())
    assert rankme(of_singular_values([2.0, 1.0, 1.0, 0, 0, 0])) == pytest.approx(wanted, rel=1e-9)  # float64


def test_what_centres_and_what_does_not() -> None:
    features = of_singular_values([2.0, 1.0, 1.0])
    assert rankme(features + 1000) == pytest.approx(1, abs=0.02)
    assert centred_rank(features + 1000) == pytest.approx(2**1.5, rel=1e-5)
    assert spectrum(features + 1000).tolist() == pytest.approx([0.5, 0.25, 0.25])


def test_the_spectrum_falls_and_sums_to_one() -> None:
    found = spectrum(torch.randn(20, 50, generator=torch.Generator().manual_seed(0)).half())
    assert found.shape == (20,)
    assert (found.diff() <= 0).all()
    assert found.sum().item() == pytest.approx(1)


def test_a_collapsed_encoder_is_named() -> None:
    assert rankme(torch.full((9, 4), 0.1)) == pytest.approx(1, rel=1e-5)
    assert centred_rank(torch.full((9, 4), 0.1)) == 0
    assert centred_rank(torch.zeros(9, 4)) == 0
    with pytest.raises(ValueError, match="features must have a spectrum, but all rows are equal"):
        spectrum(torch.full((9, 4), 0.1))
    with pytest.raises(ValueError, match="features must have a spectrum, but all are zero"):
        rankme(torch.zeros(9, 4))


@pytest.mark.parametrize("function", [rankme, centred_rank, spectrum])
def test_bad_input_has_one_message(function) -> None:
    with pytest.raises(ValueError, match=r"features must be floating-point \[rows, features\]"):
        function(torch.zeros(3))
    with pytest.raises(ValueError, match="features must be finite"):
        function(torch.full((3, 2), torch.nan))
