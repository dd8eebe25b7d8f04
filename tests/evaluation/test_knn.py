"""k nearest neighbours: ten points by hand, and scikit-learn's with the same weights."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from tats_ray.evaluation import knn
from tats_ray.evaluation.knn import KNNConfig, knn_scores


def on_circle(degrees: list[float]) -> torch.Tensor:
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def rows(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


def test_ten_points_by_hand() -> None:
    train = on_circle([0, 10, 20, 80, 90, 100, 180, 190, 200, 270])
    labels = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 0, 3])
    # Of lengths other than 1, since only the direction counts. The nearest three of 4 degrees are at 4, 6 and 16.
    test = 7 * on_circle([4, 192])
    scores = knn_scores(3 * train, labels, test, num_classes=5, config=KNNConfig(neighbors=3, temperature=0.5))
    weight = {gap: math.exp(math.cos(math.radians(gap)) / 0.5) for gap in (2, 4, 6, 8, 12, 16)}
    first = [weight[4] + weight[6], weight[16], 0, 0, 0]
    second = [weight[8], 0, weight[2] + weight[12], 0, 0]  # 190, 200 and 180 degrees
    assert scores[0].tolist() == pytest.approx([x / sum(first) for x in first], abs=1e-6)
    assert scores[1].tolist() == pytest.approx([x / sum(second) for x in second], abs=1e-6)


def test_scores_are_those_of_scikit_learn() -> None:
    train, test = rows(90, 0), rows(40, 1)
    labels = torch.arange(90) % 4

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / 0.07)  # cosine distance is 1 - similarity

    theirs = KNeighborsClassifier(20, metric="cosine", weights=weights).fit(train.numpy(), labels.numpy())
    ours = knn_scores(train, labels, test, num_classes=4, config=KNNConfig())
    # float32 similarities are exact to some 1e-7, which the temperature multiplies by 14.
    np.testing.assert_allclose(ours.numpy(), theirs.predict_proba(test.numpy()), atol=1e-5)


def test_a_low_temperature_does_not_overflow() -> None:
    train = on_circle([0, 90])
    config = KNNConfig(neighbors=2, temperature=1e-3)  # exp(1000) is beyond float32
    assert knn_scores(train, torch.tensor([0, 1]), train, num_classes=2, config=config).tolist() == [[1, 0], [0, 1]]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test, labels = rows(30, 0), rows(25, 1), torch.arange(30) % 3
    whole = knn_scores(train, labels, test, num_classes=3, config=KNNConfig())
    monkeypatch.setattr(knn, "_CHUNK_VALUES", 4 * 30)  # four test rows at a time
    chunked = knn_scores(train, labels, test, num_classes=3, config=KNNConfig())
    # Products of other shapes may round otherwise, by some 1e-7 times 1 / temperature.
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=0)


def test_rows_sum_to_one_with_float16_and_rows_of_zeros() -> None:
    train = rows(30, 0).half()
    train[3] = 0
    scores = knn_scores(train, torch.arange(30) % 3, torch.zeros(2, 12).half(), num_classes=3, config=KNNConfig())
    torch.testing.assert_close(scores.sum(1), torch.ones(2))


def test_more_neighbours_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="neighbors must be at most the 5 training rows, got 20; set it to 5 or less"):
        knn_scores(rows(5, 0), torch.arange(5), rows(2, 1), num_classes=5, config=KNNConfig())
    with pytest.raises(ValueError, match="at most the 5 training rows, got 6"):
        knn_scores(rows(5, 0), torch.arange(5), rows(2, 1), num_classes=5, config=KNNConfig(neighbors=6))
