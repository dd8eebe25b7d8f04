"""What an evaluation found out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from tats_ray.evaluation.accuracy import Accuracy
from tats_ray.probing.checks import Overlaps
from tats_ray.probing.config import Task, ratio_name
from tats_ray.probing.parts import Extraction, Failure


@dataclass(frozen=True)
class ProbeResult:
    """One probe at one token ratio."""

    task: Task
    token_ratio: float
    accuracy: Accuracy
    scores: Tensor
    """float32 [videos, classes]: mean over each test video's views; NaN for one that gave none. Votes of k-NN, softmax
    scores of the linear and attentive probes, the regression's own values of the ridge probe, which may lie outside
    [0, 1]."""
    num_views: Tensor
    """int64 [videos]: views that were decoded."""

    @property
    def name(self) -> str:
        """The task, with the token ratio in per cent where it is not all of them: ``knn``, ``knn_25``."""
        return self.task + ratio_name(self.token_ratio)

    def metrics(self) -> dict[str, float]:
        """Return the figures by metric name; see docs/metrics.md."""
        names = ("top1", "top5", "mean_class", "coverage", "top1_low", "top1_high")
        values = {name: getattr(self.accuracy, name) for name in names}
        return {f"{self.name}/{name}": float(value) for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Evaluation:
    """All that was found out about one encoder."""

    results: Sequence[ProbeResult]
    """By token ratio, then task."""
    health: Mapping[str, float]
    """By metric name."""
    spectra: Mapping[str, Tensor]
    """Spectrum of the training videos' mean features, by token ratio in words."""
    num_classes: int
    train_failures: Sequence[Failure]
    """Training videos without a view; they are left out."""
    test_failures: Sequence[Failure]
    """Test videos without a view; they count as wrong."""
    train_held: int
    """Training videos shorter than a view, whose last frame was held."""
    test_held: int
    """The same of test videos."""
    overlaps: Overlaps
    extractions: Mapping[str, Extraction] = field(repr=False)
    """Of train and test: where the features lie."""

    def metrics(self) -> dict[str, float]:
        """Return every figure by metric name."""
        probes = [result.metrics() for result in self.results]
        return {name: value for part in (*probes, dict(self.health)) for name, value in part.items()}
