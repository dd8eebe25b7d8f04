"""What a trial's run left behind, read back for the report."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from tats_ray.copies import path_of
from tats_ray.mirror import exists, read_text
from tats_ray.sweeping.acting import BOUNDS, POLICY_ON
from tats_ray.sweeping.trials import Point, Trial
from tats_ray.tracking.base import RunHandle
from tats_ray.tracking.mlflow import read_metric
from tats_ray.training.state import checkpoint_measured, latest_checkpoint
from tats_ray.worker import SUMMARY

FLOPS = "throughput/flops"


def with_measurements(trial: Trial, *, metric: str, shown: Iterable[str] = (), parent: RunHandle) -> Trial:
    """Return a trial with its last measurements and its curve, as far as its run came.

    Args:
        trial: As it ended.
        metric: Whose curve.
        shown: Further metrics; those that the run's summary lacks are as they were recorded last.
        parent: Record of the sweep; the trial's lies beside it.

    Raises:
        TrackingError: The store does not answer.
    """
    if trial.folder is None or trial.run_id is None:
        return trial
    handle = replace(parent, run_id=trial.run_id)
    flops = dict(read_metric(handle, FLOPS))
    curve = [Point(step, flops[step], value) for step, value in read_metric(handle, metric) if step in flops]
    metrics = _measured(path_of(trial.folder))
    for name in (POLICY_ON, *shown):  # the former of one that a scheduler stopped, which has no summary
        if name not in metrics and (points := read_metric(handle, name)):
            metrics[name] = points[-1][1]
    for name, _ in BOUNDS.values():
        if points := read_metric(handle, name):
            metrics[name] = fmean(value for _, value in points)
    return replace(trial, metrics=metrics, curve=curve)


def _measured(folder: Path) -> dict[str, float]:
    summary = folder / SUMMARY
    if exists(summary):
        return json.loads(read_text(summary))
    checkpoint = latest_checkpoint(folder / "checkpoints")
    return {} if checkpoint is None else dict(checkpoint_measured(checkpoint))
