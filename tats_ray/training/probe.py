"""A ridge probe while training: whether the features become of use, long before anybody evaluates a checkpoint.

Few clips and few test videos: a curve to look at, not a result. ``pipelines/evaluate.py`` gives results.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tats_ray.evaluation.health import centred_rank, rankme
from tats_ray.evaluation.ridge import RidgeConfig, ridge_scores
from tats_ray.methods.base import HeldOut, Method
from tats_ray.training.context import WorkerContext

CLIPS_AT_ONCE = 32


@dataclass(frozen=True)
class ProbeClips:
    """One worker's part of the labelled clips that the probe learns from, on the host."""

    video: Tensor  # uint8 [clips, frames, height, width, 3]
    labels: Tensor  # int64 [clips]


def probe(method: Method, clips: ProbeClips, held_out: HeldOut, context: WorkerContext) -> dict[str, float]:
    """Return top-1 of a ridge probe on the means of the time slots, tested on the held-out clips, and effective ranks.

    All workers call it alike, each with its part; all get the same numbers. There are none without two classes to learn
    from and a clip to test on.
    """
    assert held_out.labels is not None
    parts = [(clips.video, clips.labels), (held_out.batch.video, held_out.labels)]
    (train, labels), (test, wanted) = (
        _gathered(context, _features(method, video, context.device), labels) for video, labels in parts
    )
    if not len(test) or len(labels.unique()) < 2:
        return {}
    num_classes = int(torch.cat([labels, wanted]).max()) + 1
    scores = ridge_scores(train, labels, test, num_classes=num_classes, config=RidgeConfig())
    right = int((scores.argmax(1) == wanted).sum())
    means = train.unflatten(1, (method.time_slots, -1)).mean(1)
    return {
        "probe/ridge_top1": right / len(wanted),
        "probe/rankme": rankme(means),
        "probe/centred_rank": centred_rank(means),
    }


def _features(method: Method, video: Tensor, device: torch.device) -> Tensor:
    parts = [method.features(part.to(device)).float().cpu() for part in video.split(CLIPS_AT_ONCE)]
    return torch.cat(parts) if parts else torch.zeros(0, 0)


def _gathered(context: WorkerContext, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Lay all workers' rows end to end, by rank."""
    told: Sequence[tuple[Tensor, Tensor]] = context.all_gather((features, labels.cpu()))  # type: ignore[assignment]
    held = [(rows, of) for rows, of in told if len(of)]
    if not held:
        return torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)
    rows, of = zip(*held, strict=True)
    return torch.cat(rows), torch.cat(of)
