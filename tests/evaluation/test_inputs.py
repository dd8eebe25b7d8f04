"""Bad input of any probe: one ValueError that names the argument."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tats_ray.evaluation.knn import KNNConfig, knn_scores
from tats_ray.evaluation.probes import AttentiveConfig, LinearConfig, attentive_scores, linear_scores
from tats_ray.evaluation.ridge import RidgeConfig, ridge_scores

Probe = Callable[[Tensor, Tensor, Tensor], Tensor]


def run_knn(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    return knn_scores(train, labels, test, num_classes=3, config=KNNConfig(neighbors=2))


def run_ridge(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    return ridge_scores(train, labels, test, num_classes=3, config=RidgeConfig())


def run_linear(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    return linear_scores(train, labels, test, num_classes=3, config=LinearConfig(epochs=1), seed=0)


def run_attentive(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    return attentive_scores(train, labels, test, num_classes=3, config=AttentiveConfig(epochs=1), seed=0)


POOLED = [run_knn, run_ridge, run_linear]


def features(rows: int, dim: int = 8) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(rows))


def with_one(value: float) -> Tensor:
    spoilt = features(6)
    spoilt[4, 2] = value
    return spoilt


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("probe", POOLED)
@pytest.mark.parametrize(
    ("train", "labels", "test", "message"),
    [
        (features(6), LABELS + 1, features(4), r"labels must lie in \[0, num_classes=3\), got 1 to 3"),
        (features(6), LABELS - 1, features(4), r"labels must lie in .* got -1 to 1"),
        (features(6), torch.ones(6, dtype=torch.int64), features(4), "labels must hold at least two classes, got only"),
        (features(6), LABELS[:5], features(4), r"labels must have shape \(6,\), one for each row, got \(5,\)"),
        (features(6), LABELS.float(), features(4), "labels must be integers, got torch.float32"),
        (features(6), LABELS, features(4, 7), "test must be as wide as train, got 7 and 8"),
        (features(6)[0], LABELS, features(4), r"train must be floating-point \[rows, features\] and not empty"),
        (features(6).long(), LABELS, features(4), "train must be floating-point .* got torch.int64"),
        (features(6), LABELS, features(4)[:0], r"test must be .* not empty, got torch.float32 \[0, 8\]"),
        (with_one(float("nan")), LABELS, features(4), "train must be finite, got .* in 1 of 6 rows, .* row 4"),
        (features(6), LABELS, with_one(float("inf")), "test must be finite, got .* in 1 of 6 rows, .* row 4"),
    ],
)
def test_bad_input_has_one_message(probe: Probe, train: Tensor, labels: Tensor, test: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe(train, labels, test)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (features(6), features(4), r"train_tokens must be floating-point \[rows, tokens, dim\]"),
        (torch.zeros(6, 2, 8), torch.zeros(4, 2, 16), "test_tokens must be as wide as train_tokens, got 16 and 8"),
        (torch.zeros(6, 2, 8), torch.full((4, 2, 8), torch.inf).half(), "test_tokens must be finite, .* 4 of 4 rows"),
        (torch.zeros(6, 2, 12), torch.zeros(4, 2, 12), "num_heads must divide .*, got 8 and 12; try num_heads=6"),
    ],
)
def test_bad_tokens_have_one_message(train: Tensor, test: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_attentive(train, LABELS, test)


@pytest.mark.parametrize("probe", POOLED)
def test_a_class_that_does_not_occur_in_training_has_a_column(probe: Probe) -> None:
    scores = probe(features(6), torch.tensor([0, 2, 0, 2, 0, 2]), features(4))
    assert scores.shape == (4, 3)
    assert scores.isfinite().all()
