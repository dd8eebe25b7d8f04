"""How often the best score is the right class, over all videos that were asked for."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tats_ray.evaluation.inputs import check_labels

_TOP5_CLASSES = 6
_LEVEL = 0.95


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1] of all videos; one that does not decode counts as wrong."""

    top1: float
    """Share of videos whose best class is the right one; of equal scores the lower class number wins."""
    top5: float | None
    """Share of videos whose right class is among the five best; None with fewer than six classes, where it says
    nothing."""
    mean_class: float
    """Mean over the classes that occur of the share of their videos that are right."""
    coverage: float
    """Share of videos that have scores."""
    top1_low: float
    """Lower end of the 95 % interval of ``top1``."""
    top1_high: float
    """Upper end of it."""
    num_videos: int
    """Videos that were asked for."""
    confusion: Tensor
    """int64 ``[classes, classes]``: videos by true class (row) and best class (column). Videos without scores are in
    no cell."""


def accuracy(scores: Tensor, labels: Tensor, *, seed: int = 0, resamples: int = 2000) -> Accuracy:
    """Count what is right.

    Args:
        scores: ``[videos, classes]``, the higher the likelier; a row is finite, or all NaN for a video without scores.
        labels: Integers ``[videos]`` in [0, classes), of every video.
        seed: Of the bootstrap.
        resamples: Of the bootstrap; the ends of its interval jitter by about a tenth of its width at 500.

    Returns:
        The shares. The interval is the percentile bootstrap over videos (Efron 1979), which covers the spread of
        another draw of test videos and not that of another training run; with all videos right, or none, it has no
        width.

    Raises:
        ValueError: The tensors do not fit, or a row is neither finite nor NaN throughout.
    """
    decoded = _decoded(scores)
    check_labels(labels, num_rows=len(scores), num_classes=scores.shape[1])
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}; 2000 gives steady ends")
    scores, known, labels = scores[decoded].cpu(), labels[decoded].cpu().long(), labels.cpu().long()
    num_videos, num_classes = len(labels), scores.shape[1]
    confusion = _confusion(scores, known, num_classes=num_classes)
    right = confusion.diagonal()
    asked = torch.bincount(labels, minlength=num_classes)
    occurs = asked > 0
    num_right = int(right.sum())
    low, high = _bootstrap(num_right, num_videos, seed=seed, resamples=resamples)
    return Accuracy(
        top1=num_right / num_videos,
        top5=int((_rank(scores, known) < 5).sum()) / num_videos if num_classes >= _TOP5_CLASSES else None,
        mean_class=float((right[occurs].double() / asked[occurs]).mean()),
        coverage=len(known) / num_videos,
        top1_low=low,
        top1_high=high,
        num_videos=num_videos,
        confusion=confusion,
    )


def _decoded(scores: Tensor) -> Tensor:
    """Return which videos have scores, ``[videos]`` booleans."""
    if scores.ndim != 2 or not scores.numel() or scores.shape[1] < 2 or not scores.dtype.is_floating_point:
        raise ValueError(
            f"scores must be floating-point [videos, classes] of at least one video and two classes, "
            f"got {scores.dtype} {list(scores.shape)}"
        )
    finite, missing = scores.isfinite().all(1), scores.isnan().all(1)
    neither = ~(finite | missing)
    if neither.any():
        raise ValueError(
            "scores must be finite in a row, or NaN in all of it for a video without scores; "
            f"{int(neither.sum())} of {len(scores)} rows are neither, the first of them row {int(neither.nonzero()[0])}"
        )
    return finite


def _confusion(scores: Tensor, labels: Tensor, *, num_classes: int) -> Tensor:
    # Here, since torchmetrics loads transformers and pyplot: seconds for each process that only imports this package.
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    return multiclass_confusion_matrix(scores.argmax(1), labels, num_classes=num_classes)


def _rank(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes come before the right one; of equal scores the lower number, as ``argmax`` has it."""
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(1)


def _bootstrap(num_right: int, num_videos: int, *, seed: int, resamples: int) -> tuple[float, float]:
    """Return the ends of the percentile interval.

    Videos drawn with replacement hold a binomial number of right ones, so that number is drawn outright.
    """
    drawn = np.random.default_rng(seed).binomial(num_videos, num_right / num_videos, size=resamples) / num_videos
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)
