"""A comparison on Ray: every run of a plan as a task of its own, as many at once as fit, each after those it needs."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import ObjectRef
from ray.exceptions import RayError
from rich.console import Console
from rich.progress import Progress

from tats_ray.cluster.runtime import node_resources, start_ray
from tats_ray.cluster.train import check_cluster, check_fits
from tats_ray.cluster.tune import concurrent_trials, end_family, fit_quietly, last_line
from tats_ray.comparison.plan import Comparison, Plan, PlannedRun, described, plan
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.driver import conduct, find_finished, prepare
from tats_ray.interruption import Ending, recorded, terminable
from tats_ray.run_folder import abandoned, new_folder, next_number, read_status, write_status
from tats_ray.tracking.base import RunHandle
from tats_ray.tracking.mlflow import open_run
from tats_ray.training.context import LocalContext
from tats_ray.worker import Launch, own_decoders, run_training

PLAN = "plan.json"


@dataclass(frozen=True)
class Failed:
    """Why there is no result."""

    reason: str


@dataclass(frozen=True)
class Task:
    """Something to do once others are done."""

    needs: tuple[str, ...]
    start: Callable[[Mapping[str, Any]], ObjectRef]
    """Given the results so far, starts it."""


def compare(comparison: Comparison) -> None:
    """Train all runs of a comparison; finished ones are found, interrupted ones go on.

    Raises:
        ConfigError: The base run, the comparison or the cluster does not fit.
    """
    with terminable():
        base, _ = prepare(comparison.run)
        planned = plan(replace(comparison, run=base))
        start_for(base)
        folder, handle = _open(planned)
        with recorded(partial(_end, base, folder, handle, comparison.name)):
            tasks = {name: training_task(one, parent_run_id=handle.run_id) for name, one in planned.runs.items()}
            run_tasks(tasks, at_once=runs_at_once(base), what=comparison.name)


def _open(planned: Plan) -> tuple[Path, RunHandle]:
    """Return folder and record of the comparison: of an unfinished one of the same plan, or new ones."""
    comparison = planned.comparison
    base, description = comparison.run, described(planned)
    assert base.results is not None
    root = Path(base.results) / comparison.name
    newest = root / f"{next_number(root) - 1:04d}"
    status = read_status(newest)
    same = status.get("status") not in (None, "FINISHED") and (newest / PLAN).read_text() == description
    folder = newest if same else new_folder(base, comparison.name)
    with abandoned(None if same else folder):
        (folder / PLAN).write_text(description)
        handle = open_run(
            base.tracking.model_copy(update={"run_name": f"{comparison.name}-{folder.name}"}),
            results_root=Path(base.results),
            params=base.model_dump(mode="json"),
            tags={"tats.comparison": comparison.name, "tats.folder": str(folder)},
            run_id=status["mlflow_run_id"] if same else None,
        )
        write_status(folder, "RUNNING", handle)
    return folder, handle


def _end(base: TrainRun, folder: Path, handle: RunHandle, name: str, status: Ending, reason: str | None) -> None:
    write_status(folder, status, handle)
    end_family(base, handle, name, status, reason)


def training_task(planned: PlannedRun, *, parent_run_id: str) -> Task:
    """Return the task that trains a run from the weights, or all of the training, of the one before it."""

    def start(done: Mapping[str, Any]) -> ObjectRef:
        run = planned.run
        if planned.after is not None:
            run = change(run, [("init", str(starting_point(planned, done[planned.after])))])
        return _train.options(**_resources(run)).remote(run, parent_run_id)

    return Task(needs=() if planned.after is None else (planned.after,), start=start)


def starting_point(planned: PlannedRun, folder: Path) -> Path:
    """Return the checkpoint of a finished run that the next goes on from: its last, or the one kept for a cut."""
    found = sorted((folder / "checkpoints").glob("step_*"))
    return found[0] if planned.stage == "cut" else found[-1]


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
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    if run.cluster.num_workers:
        return concurrent_trials(run, cpus)
    needed = _resources(run)
    by_cpu = sum(int(node.get("CPU", 0.0) // needed["num_cpus"]) for node in nodes)
    gpus = sum(int(node.get("GPU", 0.0)) for node in nodes)
    return max(1, min(by_cpu, gpus) if needed["num_gpus"] else by_cpu)


def run_tasks(tasks: Mapping[str, Task], *, at_once: int, what: str) -> dict[str, Any]:
    """Run tasks in their order, each after those it needs; one that fails takes only those with it that need it."""
    waiting, running, done = dict(tasks), dict[ObjectRef, str](), dict[str, Any]()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=len(tasks))
        while waiting or running:
            for name, task in list(waiting.items()):
                lost = next((need for need in task.needs if isinstance(done.get(need), Failed)), None)
                if lost is not None:
                    done[name] = Failed(f"it needs {lost}, which failed")
                    del waiting[name]
                elif len(running) < at_once and all(need in done for need in task.needs):
                    running[task.start(done)] = name
                    del waiting[name]
            ready, _ = ray.wait(list(running), timeout=1.0) if running else ([], [])
            for ref in ready:
                done[running.pop(ref)] = _result(ref)
            progress.update(bar, completed=len(done))
    return {name: done[name] for name in tasks}


def _result(ref: ObjectRef) -> Any:
    try:
        return ray.get(ref)
    except RayError as error:
        return Failed(last_line(error))


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
    threads = launch.run.cluster.cpus_per_worker
    torch.set_num_threads(threads)
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    with own_decoders(launch.run, threads=threads) as shares_of:
        run_training(launch, LocalContext(device), shares_of)
