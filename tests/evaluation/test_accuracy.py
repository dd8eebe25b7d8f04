"""Accuracy by hand and against scikit-learn's, and how often its interval contains the truth."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from tats_ray.evaluation.accuracy import accuracy


def test_by_hand_with_a_video_that_does_not_decode() -> None:
    scores = torch.eye(6)[[0, 1, 1, 5, 2]]
    scores[4] = torch.nan
    found = accuracy(scores, torch.tensor([0, 1, 0, 5, 0]))
    # Right: videos 0, 1 and 3. Wrong: 2, whose class is second to fifth of the tied ones, and 4, which has no scores.
    assert found.top1 == 3 / 5
    assert found.top5 == 4 / 5
    assert found.mean_class == pytest.approx((1 / 3 + 1 + 1) / 3)  # classes 0, 1 and 5; the others do not occur
    assert found.coverage == 4 / 5
    assert found.num_videos == 5
    assert found.confusion.sum() == 4
    assert found.confusion[0, :2].tolist() == [1, 1]
    assert found.top1_low < 3 / 5 < found.top1_high


def test_numbers_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 8, (300,), generator=generator)
    scores = torch.randn(300, 8, generator=generator) + 1.5 * torch.eye(8)[labels]
    found, best = accuracy(scores, labels), scores.argmax(1)
    assert found.top1 == top_k_accuracy_score(labels, scores, k=1)
    assert found.top5 == top_k_accuracy_score(labels, scores, k=5)
    assert found.mean_class == pytest.approx(balanced_accuracy_score(labels, best))
    np.testing.assert_array_equal(found.confusion.numpy(), confusion_matrix(labels, best))


def test_equal_scores_go_to_the_lower_class_in_all_numbers() -> None:
    found = accuracy(torch.zeros(10, 10), torch.arange(10))  # a collapsed encoder
    assert found.top1 == 0.1
    assert found.top5 == 0.5
    assert found.confusion[:, 0].tolist() == [1] * 10


def test_top5_of_five_classes_says_nothing() -> None:
    assert accuracy(torch.eye(5), torch.arange(5)).top5 is None


def test_nothing_decoded_is_all_wrong() -> None:
    found = accuracy(torch.full((4, 6), torch.nan), torch.arange(4))
    assert (found.top1, found.top5, found.mean_class, found.coverage) == (0, 0, 0, 0)
    assert found.confusion.sum() == 0


def test_the_interval_is_a_function_of_the_seed() -> None:
    labels = torch.zeros(50, dtype=torch.int64)
    scores = torch.eye(2)[torch.arange(50) % 2]
    first, second, other = (accuracy(scores, labels, seed=seed, resamples=200) for seed in (1, 1, 2))
    assert (first.top1_low, first.top1_high) == (second.top1_low, second.top1_high)
    assert (first.top1_low, first.top1_high) != (other.top1_low, other.top1_high)


def test_the_interval_is_that_of_drawing_videos_with_replacement() -> None:
    right = np.arange(80) % 3 == 0
    scores = torch.eye(2)[torch.tensor(right).long()]
    found = accuracy(scores, torch.ones(80, dtype=torch.int64), resamples=20_000)
    noise = np.random.default_rng(7)
    means = right[noise.integers(0, 80, (20_000, 80))].mean(1)
    # One video is 1/80; percentiles of 20,000 draws differ by one video at most.
    assert found.top1_low == pytest.approx(np.quantile(means, 0.025), abs=1 / 80)
    assert found.top1_high == pytest.approx(np.quantile(means, 0.975), abs=1 / 80)


@pytest.mark.parametrize("truth", [0.5, 0.8])
def test_the_interval_contains_the_truth_nineteen_times_in_twenty(truth: float) -> None:
    noise = np.random.default_rng(0)
    inside = 0
    for seed in range(500):
        right = torch.tensor(noise.random(200) < truth)
        found = accuracy(torch.eye(2)[right.long()], torch.ones(200, dtype=torch.int64), seed=seed, resamples=500)
        inside += found.top1_low <= truth <= found.top1_high
    # 500 trials of 0.95 spread by 0.01. The percentile interval of 200 videos is up to 0.015 off on either side: it
    # moves in steps of one video, and its ends are those of a sample. Three deviations beyond that.
    assert 0.905 <= inside / 500 <= 0.985


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.zeros(3), torch.arange(3), r"scores must be floating-point \[videos, classes\]"),
        (torch.zeros(0, 3), torch.arange(0), "scores must be .* at least one video"),
        (torch.zeros(3, 1), torch.zeros(3).long(), "scores must be .* two classes"),
        (torch.zeros(3, 3), torch.arange(1, 4), r"labels must lie in \[0, num_classes=3\), got 1 to 3"),
        (torch.zeros(3, 3), torch.arange(2), r"labels must have shape \(3,\)"),
        (torch.tensor([[0.0, torch.nan], [0.0, 0.0]]), torch.arange(2), "finite in a row, or NaN in all .* row 0"),
        (torch.tensor([[0.0, 1.0], [torch.inf, 0.0]]), torch.arange(2), "1 of 2 rows are neither, .* row 1"),
    ],
)
def test_bad_input_has_one_message(scores: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accuracy(scores, labels)


def test_no_resamples_are_refused() -> None:
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        accuracy(torch.eye(2), torch.arange(2), resamples=0)
