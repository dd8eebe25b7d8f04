"""Ridge against scikit-learn's, and its leave-one-out errors against fits that leave one out."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import Ridge as TheirRidge
from sklearn.linear_model import RidgeClassifierCV
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from tats_ray.evaluation.ridge import RidgeConfig, fit_ridge, ridge_scores

CLASSES = 3
WIDE_AND_TALL = pytest.mark.parametrize("num_features", [5, 60])  # fewer features than the 30 rows, and more
GRID = RidgeConfig(penalties=(1e-3, 1e-2, 0.1, 1.0, 10.0))


def noisy_classes(rows: int, num_features: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % CLASSES
    centres = torch.randn(CLASSES, num_features, generator=torch.Generator().manual_seed(99))
    scale = torch.logspace(-2, 2, num_features)  # of very different make
    return (centres[labels] + 2 * torch.randn(rows, num_features, generator=generator)) * scale + 5, labels


def standard(rows: Tensor) -> np.ndarray:
    return StandardScaler().fit_transform(rows.double().numpy())


def unit(rows: Tensor) -> float:
    """The mean non-zero eigenvalue, from all of them."""
    eigenvalues = np.linalg.eigvalsh(standard(rows) @ standard(rows).T)
    return eigenvalues[eigenvalues > 1e-9].mean()


@WIDE_AND_TALL
def test_scores_are_those_of_scikit_learn_at_the_chosen_penalty(num_features: int) -> None:
    train, labels = noisy_classes(30, num_features)
    test, _ = noisy_classes(20, num_features, seed=1)
    fitted = fit_ridge(train, labels, num_classes=CLASSES, config=GRID)
    scaler = StandardScaler().fit(train.double().numpy())
    theirs = TheirRidge(alpha=fitted.penalty).fit(standard(train), F.one_hot(labels).numpy())
    wanted = theirs.predict(scaler.transform(test.double().numpy()))
    ours = ridge_scores(train, labels, test, num_classes=CLASSES, config=GRID)
    np.testing.assert_allclose(ours.numpy(), wanted, atol=1e-9)  # float64 solves of condition up to 1e4
    np.testing.assert_allclose(ours.sum(1).numpy(), 1, atol=1e-9)


@WIDE_AND_TALL
def test_the_penalty_is_the_one_scikit_learn_chooses(num_features: int) -> None:
    for seed in range(5):
        train, labels = noisy_classes(30, num_features, seed=seed)
        fitted = fit_ridge(train, labels, num_classes=CLASSES, config=GRID)
        alphas = [penalty * unit(train) for penalty in GRID.penalties]
        theirs = RidgeClassifierCV(alphas=alphas).fit(standard(train), labels.numpy())
        assert fitted.penalty == pytest.approx(theirs.alpha_)


@WIDE_AND_TALL
def test_errors_are_those_of_fits_that_leave_one_row_out(num_features: int) -> None:
    train, labels = noisy_classes(18, num_features)
    rows, targets = standard(train), F.one_hot(labels).double().numpy()
    wanted = []
    for penalty in GRID.penalties:
        squares = []
        for left_out in range(len(rows)):
            kept = np.arange(len(rows)) != left_out
            model = TheirRidge(alpha=penalty * unit(train), tol=1e-12).fit(rows[kept], targets[kept])
            squares.append(((model.predict(rows[[left_out]]) - targets[left_out]) ** 2).sum())
        wanted.append(np.mean(squares))
    fitted = fit_ridge(train, labels, num_classes=CLASSES, config=GRID)
    np.testing.assert_allclose(fitted.errors.numpy(), wanted, rtol=1e-6)  # 1 - leverage loses digits at 1e-3


def test_constant_and_doubled_features_do_not_break_it() -> None:
    train, labels = noisy_classes(30, 5)
    padded = torch.cat([train, torch.full((30, 1), 0.1), train[:, :1], torch.zeros(30, 2)], dim=1)
    test, _ = noisy_classes(20, 5, seed=1)
    padded_test = torch.cat([test, torch.full((20, 1), 9.0), test[:, :1], torch.ones(20, 2)], dim=1)
    scores = ridge_scores(padded, labels, padded_test, num_classes=CLASSES, config=GRID)
    same = ridge_scores(
        padded[:, [0, 1, 2, 3, 4, 6]], labels, padded_test[:, [0, 1, 2, 3, 4, 6]], num_classes=CLASSES, config=GRID
    )
    torch.testing.assert_close(scores, same, atol=1e-9, rtol=0)  # the constant ones do not even count in the unit


def test_a_collapsed_encoder_scores_by_the_shares_of_the_classes() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    scores = ridge_scores(torch.ones(4, 7), labels, torch.ones(2, 7), num_classes=3, config=RidgeConfig())
    assert scores.tolist() == [[0.75, 0.25, 0.0]] * 2


def test_scale_and_shift_of_features_do_not_matter() -> None:
    train, labels = noisy_classes(30, 60)
    test, _ = noisy_classes(20, 60, seed=1)
    plain = ridge_scores(train, labels, test, num_classes=CLASSES, config=RidgeConfig())
    moved = ridge_scores(train * 8 - 4, labels, test * 8 - 4, num_classes=CLASSES, config=RidgeConfig())
    torch.testing.assert_close(moved, plain, atol=1e-4, rtol=0)  # float32 rounds the moved features


def test_the_same_twice_is_the_same_to_the_bit() -> None:
    train, labels = noisy_classes(30, 60)
    first, second = (ridge_scores(train, labels, train, num_classes=CLASSES, config=RidgeConfig()) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("penalties", [(), (0.0,), (1.0, -1.0), (float("inf"),), (float("nan"),)])
def test_penalties_are_positive(penalties: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="penalties"):
        RidgeConfig(penalties=penalties)
