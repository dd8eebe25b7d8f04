"""A comparison on Ray: each run of a plan and its judging are tasks, as many at once as fit, after those they need."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
from ray import ObjectRef

from tats_ray.claims import next_number
from tats_ray.cluster.runtime import node_resources, start_ray
from tats_ray.cluster.tasks import Failed, Task, run_tasks
from tats_ray.cluster.train import check_cluster, check_fits
from tats_ray.cluster.trial import device, fit_quietly, train_here
from tats_ray.cluster.tune import concurrent_trials, end_family
from tats_ray.comparison.collect import Data, curves, facts, scored, settings
from tats_ray.comparison.diagnostics import random_mask_errors
from tats_ray.comparison.judging import Missing, Scored
from tats_ray.comparison.plan import Comparison, Plan, PlannedRun, described
from tats_ray.comparison.report import Report, write_report
from tats_ray.config.labels import describe_comparison
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.copies import where
from tats_ray.data.manifest import Manifest
from tats_ray.driver import conduct, find_finished, prepare
from tats_ray.interruption import Ending, recorded, terminable
from tats_ray.mirror import exists, read_text, send, write_text
from tats_ray.probing.config import EvaluationConfig, tasks_of
from tats_ray.probing.evaluate import evaluate
from tats_ray.probing.frozen import FrozenEncoder
from tats_ray.probing.record import conduct_evaluation
from tats_ray.run_folder import abandoned, new_folder, read_status, write_status
from tats_ray.tracking.base import RunHandle
from tats_ray.tracking.mlflow import MlflowTracker, open_run
from tats_ray.tracking.store import without_credentials
from tats_ray.training.context import LocalContext
from tats_ray.training.state import checkpoints
from tats_ray.worker import Launch

PLAN = "plan.json"


@dataclass(frozen=True)
class Compared:
    """A comparison that is done."""

    plan: Plan
    report: Report
    handle: RunHandle
    missing: Mapping[str, str]
    """Why runs are missing, by name."""


def compare(planned: Plan, data: Data) -> Compared:
    """Train and judge all runs of a plan, and write the report; what is done is found, what was interrupted goes on.

    Raises:
        ConfigError: The cluster does not fit.
    """
    comparison = planned.comparison
    base = comparison.run
    with terminable():
        start_for(base)
        folder, handle = _open(planned, data)
        with recorded(partial(_end, base, folder, handle, comparison.name)):
            done = run_tasks(_tasks(planned, data, handle), at_once=runs_at_once(base), what=comparison.name)
            scores = _scores(planned, done, handle)
            report = write_report(
                planned, scores, folder, facts=facts(planned, data), curves=curves(planned, scores, handle)
            )
            tracker = MlflowTracker(handle)
            for file in report.files:
                tracker.log_file(file, folder="report")
                send(file)
            tracker.close()
    missing = {name: result.reason for name, result in done.items() if isinstance(result, Failed)}
    return Compared(planned, report, handle, missing)


def start_for(run: TrainRun) -> None:
    """Start or join Ray, and check that one run fits on it.

    Raises:
        ConfigError: It does not.
    """
    if run.cluster.num_workers:
        check_cluster(run)
        return
    start_ray(None if os.environ.get("RAY_ADDRESS") else os.cpu_count())  # nobody decodes beside these runs
    one_worker = run.cluster.model_copy(update={"num_workers": 1})
    check_fits(one_worker, [{**node, "CPU": node.get("CPU", 0.0) + 1} for node in node_resources()])


def runs_at_once(run: TrainRun) -> int:
    """Return how many runs fit on the cluster at once."""
    nodes = node_resources()
    if run.cluster.num_workers:
        return concurrent_trials(run, sum(node.get("CPU", 0.0) for node in nodes))
    needed = _resources(run)
    by_cpu = sum(int(node.get("CPU", 0.0) // needed["num_cpus"]) for node in nodes)
    gpus = sum(int(node.get("GPU", 0.0)) for node in nodes)
    return max(1, min(by_cpu, gpus) if needed["num_gpus"] else by_cpu)


def starting_point(planned: PlannedRun, folder: Path) -> Path:
    """Return the checkpoint of a finished run that the next goes on from: its last, or the one kept for a cut."""
    found = checkpoints(folder / "checkpoints")
    return found[0] if planned.stage == "cut" else found[-1]


def _tasks(planned: Plan, data: Data, handle: RunHandle) -> dict[str, Task]:
    """Return the training of every run and, behind it, its judging."""
    judged = {entry.run for entry in planned.entries}
    tasks: dict[str, Task] = {}
    for name, one in planned.runs.items():
        tasks[name] = _training(one, parent_run_id=handle.run_id)
        if name in judged:
            tasks[_judging_of(name)] = _judging(one, data, planned.comparison)
    return tasks


def _judging_of(name: str) -> str:
    return f"{name}, judged"


def _training(planned: PlannedRun, *, parent_run_id: str) -> Task:
    def start(done: Mapping[str, Any]) -> ObjectRef:
        run = planned.run
        if planned.after is not None:
            run = change(run, [("init", where(starting_point(planned, done[planned.after])))])
        return _train.options(**_resources(run)).remote(run, parent_run_id)

    return Task(needs=() if planned.after is None else (planned.after,), start=start)


def _judging(planned: PlannedRun, data: Data, comparison: Comparison) -> Task:
    def start(done: Mapping[str, Any]) -> ObjectRef:
        alone = planned.run.model_copy(update={"cluster": planned.run.cluster.model_copy(update={"num_workers": 0})})
        return _judge.options(**_resources(alone)).remote(
            done[planned.name], data, tuple(comparison.tasks), settings(comparison)
        )

    return Task(needs=(planned.name,), start=start)


def _resources(run: TrainRun) -> dict[str, float]:
    """Return what the task of a run takes; a run with workers takes their share by itself."""
    if run.cluster.num_workers:
        return {"num_cpus": 0.01, "num_gpus": 0}
    gpu = run.cluster.use_gpu is not False and any(node.get("GPU", 0.0) for node in node_resources())
    return {"num_cpus": run.cluster.cpus_per_worker, "num_gpus": int(gpu or run.cluster.use_gpu is True)}


@ray.remote(max_retries=3)  # of lost machines; a run goes on from its last checkpoint
def _train(run: TrainRun, parent_run_id: str) -> Path:
    run, manifest = prepare(run)
    found = find_finished(run, manifest)
    if found is not None:
        return found
    execute = fit_quietly if run.cluster.num_workers else _train_here
    return conduct(run, execute, parent_run_id=parent_run_id).launch.folder


def _train_here(launch: Launch) -> None:
    """Train in this task's process, on its GPU if it has one."""
    train_here(launch, LocalContext(device()))


@ray.remote(max_retries=3)
def _judge(folder: Path, data: Data, tasks: tuple[str, ...], config: EvaluationConfig) -> dict[str, float]:
    """Return the figures of a run's last checkpoint; once found out, they are read from its folder."""
    train, test = Manifest.read(data.train), Manifest.read(data.test)
    asked = json.dumps([train.hash, test.hash, tasks, config.model_dump(mode="json")], sort_keys=True)
    kept = folder / f"judged_{hashlib.sha256(asked.encode()).hexdigest()[:12]}.json"
    if exists(kept):
        return json.loads(read_text(kept))
    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
    frozen = FrozenEncoder.load(folder, device=device(), num_frames=config.num_frames)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".features_") as features:  # of many runs they would fill the disk
        work = partial(evaluate, frozen, train, test, tasks_of(tasks), config, features=Path(features))
        evaluation = conduct_evaluation(frozen, train, test, tasks_of(tasks), config, run=work).evaluation
    figures = {**evaluation.metrics(), **random_mask_errors(folder, test, device=device())}
    write_text(kept, json.dumps(figures, indent=2))
    return figures


def _open(planned: Plan, data: Data) -> tuple[Path, RunHandle]:
    """Return folder and record of the comparison: of an unfinished one of the same plan, or new ones."""
    comparison = planned.comparison
    base = comparison.run
    description = without_credentials(json.dumps({**json.loads(described(planned)), "data": asdict(data)}, indent=1))
    root = base.root / comparison.name
    newest = root / f"{next_number(root) - 1:04d}"
    status = read_status(newest)
    same = status.get("status") not in (None, "FINISHED") and read_text(newest / PLAN) == description
    folder = newest if same else new_folder(base, comparison.name)
    name = f"{comparison.name}-{folder.name}"
    with abandoned(None if same else folder):
        write_text(folder / PLAN, description)
        handle = open_run(
            base.tracking.model_copy(update={"run_name": name}),
            results_root=base.root,
            folder=folder,
            params=base.model_dump(mode="json"),
            tags={"tats.kind": "comparison", "tats.comparison": name, "tats.folder": where(folder)},
            description=describe_comparison(
                base,
                arms=[arm.name for arm in comparison.arms],
                ratios=comparison.ratios,
                seeds=comparison.seeds,
            ),
            run_id=status["mlflow_run_id"] if same else None,
        )
        write_status(folder, "RUNNING", handle)
    return folder, handle


def _end(base: TrainRun, folder: Path, handle: RunHandle, name: str, status: Ending, reason: str | None) -> None:
    write_status(folder, status, handle)
    end_family(base, handle, name, status, reason)


def _scores(planned: Plan, done: Mapping[str, Any], handle: RunHandle) -> dict[str, Scored | Missing]:
    scores: dict[str, Scored | Missing] = {}
    for entry in planned.entries:
        folder, figures = done[entry.run], done[_judging_of(entry.run)]
        failed = next((result for result in (folder, figures) if isinstance(result, Failed)), None)
        scores[entry.run] = (
            scored(planned, entry.run, folder, figures, handle) if failed is None else Missing(failed.reason)
        )
    return scores
