"""Sweeps: a declared search space, one shared warm checkpoint, a Ray Tune trial for each point, a table at the end."""

import csv
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from rich.console import Console
from rich.progress import Progress, TaskID

from tats_ray.cluster.context import make_board
from tats_ray.cluster.runtime import start_ray
from tats_ray.cluster.train import check_cluster, fit, run_on_ray
from tats_ray.config.labels import describe_sweep
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.driver import close_record, conduct, end_as_killed, prepare
from tats_ray.interruption import Ending, recorded, terminable
from tats_ray.run_folder import abandoned, new_folder, read_status
from tats_ray.tracking.base import RunHandle
from tats_ray.tracking.mlflow import MlflowTracker, open_run
from tats_ray.training.state import latest_checkpoint
from tats_ray.worker import Launch

KILL_SECONDS = 10.0
"""How long an interrupted sweep waits for the processes of its trials to go."""


@dataclass(frozen=True)
class SearchSpace:
    """A sweep as a declaration; every name is a dotted path of a run, or a metric's documented name."""

    name: str
    recipe: str
    metric: str
    mode: str  # "min" or "max"
    domains: Mapping[str, Any]  # dotted path to a Ray Tune domain
    fixed: Mapping[str, Any] = field(default_factory=dict)  # of every trial
    warm_up: Mapping[str, Any] = field(default_factory=dict)  # of the run whose last checkpoint every trial starts from
    shown: tuple[str, ...] = ()  # further metrics in the table


@dataclass(frozen=True)
class TrialResult:
    """How one trial ended."""

    name: str
    knobs: Mapping[str, Any]
    metrics: Mapping[str, float]
    error: str | None


@dataclass(frozen=True)
class SweepResult:
    """All trials, best first, failed ones last."""

    trials: list[TrialResult]
    table: Path
    handle: RunHandle


def sweep(space: SearchSpace, run: TrainRun) -> SweepResult:
    """Run every trial of a space; ``run`` is the base that the space changes.

    A failed trial ends with its reason in the result, and does not end the sweep.

    Raises:
        RunFailedError: The warm-up failed.
        ConfigError: The base run, a domain's path or the cluster does not fit.
    """
    with terminable():
        run, _ = prepare(run)
        check_cluster(change(run, space.fixed.items()))
        base = change(run, [("init", str(warm_checkpoint(space, run))), *space.fixed.items()])
        folder = new_folder(base, space.name)
        name = f"{space.name}-{folder.name}"
        with abandoned(folder):
            handle = _open(space, base, folder, name=name)
        with recorded(partial(end_family, base, handle, name)):
            trials = _run_trials(space, base, folder, name=name, parent_run_id=handle.run_id)
            table = _write_table(space, trials, folder / "trials.csv")
            tracker = MlflowTracker(handle)
            tracker.log_file(table, folder="sweep")
            tracker.close()
    return SweepResult(trials, table, handle)


def _open(space: SearchSpace, base: TrainRun, folder: Path, *, name: str) -> RunHandle:
    assert base.results is not None
    return open_run(
        base.tracking.model_copy(update={"run_name": name}),
        results_root=Path(base.results),
        folder=folder,
        params={**base.model_dump(mode="json"), "sweep": {key: str(domain) for key, domain in space.domains.items()}},
        tags={"tats.kind": "sweep", "tats.sweep": name, "tats.folder": str(folder)},
        description=describe_sweep(base, knobs=list(space.domains), metric=space.metric, mode=space.mode),
    )


def end_family(base: TrainRun, handle: RunHandle, name: str, status: Ending, reason: str | None) -> None:
    """Record how the parent of the runs called ``name-...`` ended, and those of them that were killed with it."""
    close_record(handle, status, reason=reason)  # first: a job that is stopped has few seconds
    begun = _running(base, name)
    if status == "KILLED":
        ray.shutdown()  # the trials end with it
    end_as_killed(base, sorted({*begun, *_running(base, name)}), patience=KILL_SECONDS)


def _running(base: TrainRun, name: str) -> list[Path]:
    """Return the folders of a sweep's trials that are being trained, as far as they could say."""
    assert base.results is not None
    folders = Path(base.results).glob(f"{name}-*/[0-9]*")
    return [folder for folder in folders if read_status(folder).get("status") == "RUNNING"]


def warm_checkpoint(space: SearchSpace, run: TrainRun) -> Path:
    """Return the last checkpoint of the space's warm-up run, which is trained once and found again by its settings."""
    warm = change(run, space.warm_up.items())
    same = warm.model_copy(update={"cluster": None, "tracking": None, "name": ""})
    _, manifest = prepare(warm)
    digest = hashlib.sha256((repr(same) + manifest.hash).encode()).hexdigest()[:12]
    warm = warm.model_copy(update={"name": f"warm-{digest}"})
    assert warm.results is not None
    for folder in sorted((Path(warm.results) / warm.name).glob("*"), reverse=True):
        if read_status(folder).get("status") == "FINISHED":
            found = latest_checkpoint(folder / "checkpoints")
            if found is not None:
                return found
    outcome = conduct(warm, run_on_ray)
    found = latest_checkpoint(outcome.launch.folder / "checkpoints")
    assert found is not None
    return found


def concurrent_trials(run: TrainRun, cpus: float) -> int:
    """Return how many trials fit at once: each takes its workers' CPUs and one for decoding.

    Tune sees a trial's own process only, not the workers that it starts; without this bound all trials would start and
    wait for each other's CPUs for ever.
    """
    return max(1, int(cpus // (run.cluster.num_workers * run.cluster.cpus_per_worker + 1)))


def _run_trials(
    space: SearchSpace, base: TrainRun, folder: Path, *, name: str, parent_run_id: str
) -> list[TrialResult]:
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # tracebacks of trials: their reason is in the table
    trial = tune.with_parameters(partial(_trial), base=base, sweep=name, parent_run_id=parent_run_id)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=None)
        tuner = tune.Tuner(
            tune.with_resources(trial, {"CPU": 0.01}),
            param_space=dict(space.domains),
            tune_config=tune.TuneConfig(
                metric=space.metric,
                mode=space.mode,
                max_concurrent_trials=concurrent_trials(base, ray.cluster_resources()["CPU"]),
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(folder), verbose=0, callbacks=[_Count(progress, task)]
            ),
        )
        grid = tuner.fit()
    results = [
        TrialResult(
            name=str((result.metrics or {}).get("trial_id", "-")).split("_")[-1],
            knobs={key.removeprefix("config/"): value for key, value in (result.config or {}).items()},
            metrics={key: value for key, value in (result.metrics or {}).items() if isinstance(value, int | float)},
            error=None if result.error is None else last_line(result.error),
        )
        for result in grid
    ]
    sign = 1 if space.mode == "min" else -1
    worst = float("inf")
    return sorted(results, key=lambda trial: sign * trial.metrics[space.metric] if trial.error is None else worst)


def _trial(config: dict[str, Any], *, base: TrainRun, sweep: str, parent_run_id: str) -> None:
    """One trial: a run like any other, nested below the sweep's."""
    trial_id = tune.get_context().get_trial_id()
    run = change(base, [*config.items(), ("name", f"{sweep}-{trial_id}")])
    outcome = conduct(run, fit_quietly, parent_run_id=parent_run_id)
    tune.report(outcome.summary)


def fit_quietly(launch: Launch) -> None:
    """Train on Ray Train from inside a task, without a bar."""
    start_ray()
    fit(launch, make_board())


def _write_table(space: SearchSpace, trials: list[TrialResult], path: Path) -> Path:
    columns = [*space.domains, space.metric, *space.shown, "error"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", *columns])
        for trial in trials:
            values = {**trial.knobs, **trial.metrics, "error": trial.error or ""}
            writer.writerow([trial.name, *(values.get(column, "") for column in columns)])
    return path


def last_line(error: BaseException) -> str:
    """Return what an error that crossed processes says in the end."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


class _Count(tune.Callback):
    """Counts ended trials on a bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restored sweep; a bar belongs to this terminal

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._advance(trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._advance(trials)

    def _advance(self, trials: list[Any]) -> None:
        self._progress.update(self._task, total=len(trials), advance=1)
