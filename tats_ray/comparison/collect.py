"""What the runs of a comparison left behind, read back for its report."""

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tats_ray.comparison.judging import Missing, Scored, Scores
from tats_ray.comparison.plan import Comparison, Plan, plan
from tats_ray.copies import path_of, where
from tats_ray.data.manifest import Manifest
from tats_ray.driver import absolute, prepare
from tats_ray.mirror import read_text
from tats_ray.probing.checks import check_labels
from tats_ray.probing.config import EvaluationConfig, changed, tasks_of
from tats_ray.run_folder import read_status
from tats_ray.tracking.base import RunHandle
from tats_ray.tracking.charts import Points
from tats_ray.tracking.mlflow import read_metric
from tats_ray.tracking.provenance import provenance_tags
from tats_ray.tracking.store import run_page, without_credentials
from tats_ray.worker import LEDGER, SUMMARY

CURVES = ("validation/random_mask_error", "sampler/motion_lift")
"""Drawn over the steps, of the first seed."""


@dataclass(frozen=True)
class Data:
    """On what the probes learn and are tested: places of manifests."""

    train: str
    test: str


def prepared(comparison: Comparison, data: Data) -> tuple[Plan, Data]:
    """Check all that can be checked before anything starts; return the plan and the data with absolute paths.

    Raises:
        ConfigError, ManifestError: The base run, the comparison, the probes or the data do not fit.
    """
    base, _ = prepare(comparison.run)
    settings(comparison)
    data = Data(absolute(data.train, "--data"), absolute(data.test, "--data"))
    check_labels(Manifest.read(data.train), Manifest.read(data.test))
    return plan(replace(comparison, run=base)), data


def settings(comparison: Comparison) -> EvaluationConfig:
    """Return the settings of the probes.

    Raises:
        ConfigError: There is no such task or setting.
    """
    tasks_of(comparison.tasks)
    return changed(EvaluationConfig(), [*comparison.probes.items(), ("cluster.num_workers", 0)])


def scored(planned: Plan, name: str, folder: Path, figures: Mapping[str, float], parent: RunHandle) -> Scored:
    """Put together what the training and the judging of a run left.

    Args:
        planned: The plan.
        name: Of the run.
        folder: Of the run.
        figures: What its judging found.
        parent: Record of the comparison.
    """
    own = json.loads(read_text(folder / LEDGER))["flops"]  # a cut goes on counting where the full run was
    return Scored(
        metrics=figures,
        summary=json.loads(read_text(folder / SUMMARY)),
        flops=own + planned.warm_flops(name),
        folder=where(folder),
        link=run_page(_record(folder, parent)) or f"../../{folder.parent.name}/{folder.name}",
    )


def curves(planned: Plan, scores: Scores, parent: RunHandle) -> dict[str, dict[str, Points]]:
    """Return the first seed's curves of every arm at each ratio, by metric."""
    found: dict[str, dict[str, Points]] = {}
    for entry in planned.entries:
        one = scores[entry.run]
        if (entry.seed, entry.budget) != (planned.comparison.seeds[0], "clips") or isinstance(one, Missing):
            continue
        for metric in CURVES:
            points = read_metric(_record(path_of(one.folder), parent), metric)
            if points:
                steps, values = zip(*points, strict=True)
                found.setdefault(metric, {})[f"{entry.arm}, {entry.ratio:g}"] = (steps, values)
    return found


def facts(planned: Plan, data: Data) -> dict[str, str]:
    """Return command, data, lengths, commit, versions and hardware, by name."""
    comparison, run = planned.comparison, planned.comparison.run
    found = {
        "command": shlex.join(["python", *sys.argv]),
        "train": f"{data.train}, {len(Manifest.read(data.train))} videos",
        "test": f"{data.test}, {len(Manifest.read(data.test))} videos",
        "length": f"{comparison.warm_steps:,} steps of warm-up at ratio {comparison.warm_ratio:g}"
        + (f", in the last {comparison.critic_steps:,} of which a critic learns" if comparison.critic_steps else "")
        + f", then {comparison.steps:,}, the last {comparison.cooldown_steps:,} of them a cool-down",
        "step": f"{run.training.global_batch} clips of {run.data.num_frames} frames of {run.data.crop_size} pixels, "
        f"{run.grid.num_tokens:,} tokens",
        "all training": f"{len(planned.runs)} runs, {planned.flops / 1e12:,.4g} TFLOPs counted",
        **provenance_tags(),
    }
    return {name: without_credentials(text) for name, text in found.items()}


def _record(folder: Path, parent: RunHandle) -> RunHandle:
    """Return the record of a run, which lies beside the comparison's."""
    return replace(parent, run_id=read_status(folder)["mlflow_run_id"], folder=folder)
