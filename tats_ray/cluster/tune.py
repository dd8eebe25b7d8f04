"""Sweeps: a declared search space, shared warm checkpoints, a Ray Tune trial for each point, a page at the end."""

import logging
import shlex
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE
from rich.console import Console
from rich.progress import Progress

from tats_ray.cluster.planning import SuggestedTrials
from tats_ray.cluster.recorder import Recorder
from tats_ray.cluster.runtime import node_resources, ray_storage
from tats_ray.cluster.schedulers import make_scheduler
from tats_ray.cluster.search_space import SearchSpace, is_logarithmic
from tats_ray.cluster.sweep_start import Begun, begin, go_on, named, not_worth_starting
from tats_ray.cluster.train import check_fits
from tats_ray.cluster.trial import SweepTrial, newest_folder
from tats_ray.config.run import TrainRun
from tats_ray.copies import where
from tats_ray.driver import prepare
from tats_ray.endings import close_record, end_as_killed
from tats_ray.interruption import Ending, recorded, terminable
from tats_ray.mirror import listed, send
from tats_ray.run_folder import alone, read_status, write_status
from tats_ray.sweeping.collect import with_measurements
from tats_ray.sweeping.journal import Options, Planned
from tats_ray.sweeping.question import Question
from tats_ray.sweeping.report import Report, write_report
from tats_ray.sweeping.trials import Trial
from tats_ray.tracking.base import RunHandle
from tats_ray.tracking.mlflow import MlflowTracker, tag_run
from tats_ray.tracking.provenance import provenance_tags
from tats_ray.worker import total_steps

KILL_SECONDS = 10.0
"""How long an interrupted sweep waits for the processes of its trials to go."""


@dataclass(frozen=True)
class SweepResult:
    """A sweep that is over."""

    name: str
    trials: list[Trial]
    report: Report
    folder: Path
    handle: RunHandle


def sweep(
    space: SearchSpace, run: TrainRun, options: Options | None = None, *, resume: str | None = None
) -> SweepResult:
    """Run every trial of a space; ``run`` is the base that the space changes.

    A failed trial ends with its reason in the result, and does not end the sweep.

    Args:
        space: What is searched.
        run: The base run.
        options: How; None for what the space says, with the run's seed. A resumed sweep has its own.
        resume: Name of a sweep that was interrupted.

    Raises:
        RunFailedError: A warm-up failed.
        ConfigError: The base run, the space, the options or the cluster does not fit, or there is no such sweep.
    """
    with terminable():
        run, _ = prepare(_with_a_worker(run))
        if resume is None:
            begun = begin(space, run, options or Options(space.search, space.scheduler, space.trials, (run.seed,)))
        else:
            begun = go_on(space, run, resume)
        with alone(named(begun.base, begun.plan.name)), recorded(partial(_end, begun)):
            _run_trials(begun)
            trials = _collect(begun)
            report = _report(begun, trials)
    return SweepResult(begun.plan.name, trials, report, begun.journal.folder, begun.handle)


def concurrent_trials(run: TrainRun, cpus: float) -> int:
    """Return how many trials fit at once: each takes its workers' CPUs and those for decoding.

    Tune sees a nested trial's own process only, not the workers that it starts; without this bound all trials would
    start and wait for each other's CPUs for ever.
    """
    return max(1, int(cpus // trial_cpus(run)))


def trial_cpus(run: TrainRun) -> int:
    """Return the CPUs of a trial: its workers', and one for decoding beside them."""
    return max(1, run.cluster.num_workers) * run.cluster.cpus_per_worker + 1


def keep_keys_here() -> None:
    """Keep Tune from handing this process's AWS keys on to the trials: Ray writes what is handed on into its logs.

    On another machine a trial has that machine's own, like all else that reads and writes there.
    """
    ENV_VARS_TO_PROPAGATE.difference_update([name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")])


def end_family(base: TrainRun, handle: RunHandle, name: str, status: Ending, reason: str | None) -> None:
    """Record how the parent of the runs called ``name-...`` ended, and those of them that were killed with it."""
    close_record(handle, status, reason=reason)  # first: a job that is stopped has few seconds
    begun = _running(base, name)
    if status == "KILLED":
        ray.shutdown()  # the trials end with it
    end_as_killed(base, sorted({*begun, *_running(base, name)}), patience=KILL_SECONDS)


def _with_a_worker(run: TrainRun) -> TrainRun:
    """Return a run that Ray trains: what would train alone is a run of one worker there, with the same clips."""
    workers = max(1, run.cluster.num_workers)
    return run.model_copy(update={"cluster": run.cluster.model_copy(update={"num_workers": workers})})


def _running(base: TrainRun, name: str) -> list[Path]:
    """Return the folders of a sweep's trials that are being trained, as far as they could say."""
    below = [path for path in listed(base.root, depth=2) if path.name.isdigit()]
    folders = [base.root / path for path in below if path.parts[0].startswith(f"{name}-")]
    return [folder for folder in folders if read_status(folder).get("status") == "RUNNING"]


def _run_trials(begun: Begun) -> None:
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # tracebacks of trials: their reason is in the table
    options, base, settled = begun.plan.options, begun.base, begun.journal.settled()
    waiting = [_as_it_is_now(begun, planned) for planned in begun.plan.trials if planned.name not in settled]
    suggested = None
    if options.search == "tpe":
        suggested = SuggestedTrials(begun.space, begun.plan, begun.journal, judge=partial(not_worth_starting, begun))
    elif not waiting:
        return
    keep_keys_here()
    in_turns = options.scheduler == "pbt"  # all take part from the beginning, and what does not fit is paused
    total = (options.trials or 0) * len(options.seeds) if suggested else len(begun.plan.trials)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(begun.plan.name, total=total, completed=len(settled))
        recorder = Recorder(begun.journal, options.scheduler, metric=begun.space.metric, progress=progress, task=task)
        tune.Tuner(
            tune.with_resources(tune.with_parameters(SweepTrial, sweep=begun.told), _resources(base)),
            param_space={} if suggested else {"trial": tune.grid_search([vars(planned) for planned in waiting])},
            tune_config=tune.TuneConfig(
                metric=begun.space.metric,
                mode=begun.space.mode,
                search_alg=suggested,
                scheduler=make_scheduler(
                    begun.space,
                    options,
                    total_steps=total_steps(*prepare(base)),
                    checkpoint_every=base.training.checkpoint_every,
                ),
                num_samples=total if suggested else 1,
                max_concurrent_trials=None if in_turns else concurrent_trials(base, ray.cluster_resources()["CPU"]),
                reuse_actors=not in_turns,  # a process that is kept would keep the name of the trial that it paused
                trial_name_creator=_name_of,
                trial_dirname_creator=lambda trial: f"{_name_of(trial)}-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                **ray_storage(begun.journal.folder),
                verbose=0,
                callbacks=[recorder],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a run's are in its own folder
                failure_config=tune.FailureConfig(max_failures=base.cluster.max_failures),
            ),
        ).fit()


def _name_of(trial: Any) -> str:
    """Return our name of a trial that Tune just made."""
    return trial.config["trial"]["name"]


def _as_it_is_now(begun: Begun, planned: Planned) -> Planned:
    """Return a trial with the knobs that it took over last."""
    segments = begun.journal.segments(planned.name)
    return replace(planned, knobs=segments[-1].knobs) if segments else planned


def _resources(run: TrainRun) -> dict[str, float]:
    """Return what Tune reserves for a trial: all that it takes, or little where its workers are Ray Train's."""
    if run.cluster.num_workers > 1:
        return {"CPU": 0.01}
    use_gpu = check_fits(run.cluster, node_resources())
    return {"CPU": trial_cpus(run), **({"GPU": 1} if use_gpu else {})}


def _collect(begun: Begun) -> list[Trial]:
    """Return all trials with what they measured, in the order of the plan; close the records of those cut short."""
    cut_short = _running(begun.base, begun.plan.name)
    end_as_killed(begun.base, cut_short, patience=KILL_SECONDS)
    ended = begun.journal.ended()
    trials = []
    for planned in begun.plan.trials:
        trial = ended[planned.name]
        folder = newest_folder(named(begun.base, f"{begun.plan.name}-{planned.name}"))
        if folder is not None:
            trial = replace(trial, folder=where(folder), run_id=read_status(folder).get("mlflow_run_id"))
        if trial.run_id and trial.reason and (trial.status == "stopped" or folder in cut_short):
            tag = "tats.stopped" if trial.status == "stopped" else "tats.error"
            tag_run(replace(begun.handle, run_id=trial.run_id), {tag: trial.reason})
        space = begun.space
        trial = with_measurements(trial, metric=space.metric, shown=space.shown, parent=begun.handle)
        begun.journal.end(trial)
        trials.append(trial)
    return trials


def _report(begun: Begun, trials: list[Trial]) -> Report:
    """Write the page with its files, and record them."""
    space, options = begun.space, begun.plan.options
    question = Question(
        name=space.name,
        metric=space.metric,
        mode=space.mode,
        base=begun.base,
        starts={int(seed): start for seed, start in begun.plan.starts.items()},
        knobs=tuple(space.domains),
        logarithmic=[path for path, domain in space.domains.items() if is_logarithmic(domain, path)],
        at=options.rank_at,
        shown=space.shown,
    )
    facts = {"command": shlex.join(["python", *sys.argv]), "sweep": begun.plan.name, **provenance_tags()}
    report = write_report(question, trials, begun.journal.folder, facts=facts, parent=begun.handle)
    tracker = MlflowTracker(begun.handle)
    for file in report.files:
        tracker.log_file(file, folder="sweep")
    tracker.close()
    for file in report.files:
        send(file)
    return report


def _end(begun: Begun, status: Ending, reason: str | None) -> None:
    write_status(begun.journal.folder, status, begun.handle)
    end_family(begun.base, begun.handle, begun.plan.name, status, reason)
