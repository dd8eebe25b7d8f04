"""Sweeps: a declared search space, shared warm checkpoints, a Ray Tune trial for each point, a page at the end."""

import hashlib
import logging
import shlex
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search.sample import Categorical
from rich.console import Console
from rich.progress import Progress

from tats_ray.cluster.planning import SuggestedTrials, check_space, configurations, with_seeds
from tats_ray.cluster.recorder import Recorder
from tats_ray.cluster.runtime import gpu_bytes, node_resources
from tats_ray.cluster.schedulers import check_scheduler, make_scheduler
from tats_ray.cluster.search_space import SearchSpace, domain_of, is_logarithmic
from tats_ray.cluster.train import check_cluster, check_fits, run_on_ray
from tats_ray.cluster.trial import Sweep, SweepTrial, newest_folder, trial_run
from tats_ray.config.error import ConfigError
from tats_ray.config.labels import describe_sweep
from tats_ray.config.overrides import change, flatten, validated
from tats_ray.config.run import TrainRun
from tats_ray.driver import FREE_TO_CHANGE, close_record, conduct, end_as_killed, prepare, total_steps
from tats_ray.interruption import Ending, recorded, terminable
from tats_ray.run_folder import abandoned, alone, is_held, new_folder, read_status, write_status
from tats_ray.sweeping.acting import why_it_cannot_act
from tats_ray.sweeping.collect import with_measurements
from tats_ray.sweeping.fitting import why_it_cannot_fit
from tats_ray.sweeping.journal import Journal, Options, Plan, Planned
from tats_ray.sweeping.report import Question, Report, write_report
from tats_ray.sweeping.trials import Trial
from tats_ray.tracking.base import RunHandle
from tats_ray.tracking.mlflow import MlflowTracker, open_run
from tats_ray.tracking.provenance import provenance_tags
from tats_ray.training.state import latest_checkpoint

KILL_SECONDS = 10.0
"""How long an interrupted sweep waits for the processes of its trials to go."""
ORPHAN_SECONDS = 60.0
"""How long a resumed sweep waits for processes that a killed driver left."""


@dataclass(frozen=True)
class SweepResult:
    """A sweep that is over."""

    name: str
    trials: list[Trial]
    report: Report
    folder: Path
    handle: RunHandle


@dataclass
class _Begun:
    """A sweep that is under way."""

    space: SearchSpace
    plan: Plan
    base: TrainRun
    journal: Journal
    handle: RunHandle
    memory: float
    """Bytes that a worker can have: of a GPU, or of the largest machine."""

    @property
    def told(self) -> Sweep:
        """What its trials are told."""
        plan = self.plan
        return Sweep(plan.name, self.journal.folder, self.base, self.space.metric, plan.starts, self.handle.run_id)


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
            begun = _begin(space, run, options or Options(space.search, space.scheduler, space.trials, (run.seed,)))
        else:
            begun = _resume(space, run, resume)
        with alone(_named(begun.base, begun.plan.name)), recorded(partial(_end, begun)):
            _run_trials(begun)
            trials = _collect(begun)
            report = _report(begun, trials)
    return SweepResult(begun.plan.name, trials, report, begun.journal.folder, begun.handle)


def warm_checkpoint(space: SearchSpace, run: TrainRun) -> Path:
    """Return the last checkpoint of the space's warm-up run, which is trained once and found again by its settings."""
    assert space.warm_up is not None
    warm = change(run, space.warm_up.items())
    same = warm.model_copy(update={"cluster": None, "tracking": None, "name": ""})
    _, manifest = prepare(warm)
    digest = hashlib.sha256((repr(same) + manifest.hash).encode()).hexdigest()[:12]
    warm = _named(warm, f"warm-{digest}")
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
    """Return how many trials fit at once: each takes its workers' CPUs and those for decoding.

    Tune sees a nested trial's own process only, not the workers that it starts; without this bound all trials would
    start and wait for each other's CPUs for ever.
    """
    return max(1, int(cpus // trial_cpus(run)))


def trial_cpus(run: TrainRun) -> int:
    """Return the CPUs of a trial: its workers', and one for decoding beside them."""
    return max(1, run.cluster.num_workers) * run.cluster.cpus_per_worker + 1


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


def _named(run: TrainRun, name: str) -> TrainRun:
    return run.model_copy(update={"name": name})


def _running(base: TrainRun, name: str) -> list[Path]:
    """Return the folders of a sweep's trials that are being trained, as far as they could say."""
    assert base.results is not None
    folders = Path(base.results).glob(f"{name}-*/[0-9]*")
    return [folder for folder in folders if read_status(folder).get("status") == "RUNNING"]


def _begin(space: SearchSpace, run: TrainRun, options: Options) -> _Begun:
    base = change(run, space.fixed.items())
    check_space(space, options, base)
    check_scheduler(space, options, base)
    check_cluster(base)
    starts = {str(seed): _start(space, run, seed) for seed in options.seeds}
    folder = new_folder(base, space.name)
    plan = Plan(
        name=f"{space.name}-{folder.name}",
        options=options,
        domains=_in_words(space),
        base=base.model_dump(mode="json"),
        starts=starts,
        trials=[
            planned
            for number, knobs in enumerate(configurations(space, options))
            for planned in with_seeds(number, knobs, options.seeds)
        ],
    )
    with abandoned(folder):
        journal = Journal(folder)
        journal.write_plan(plan)
        begun = _Begun(space, plan, base, journal, _open(space, base, plan, folder, run_id=None), _memory(base))
    for planned in plan.trials:
        ending = _not_worth_starting(begun, planned)
        if ending is not None:
            journal.end(ending)
    return begun


def _start(space: SearchSpace, run: TrainRun, seed: int) -> str | None:
    """Return the checkpoint that a seed's trials start from: a given one, a warm-up's of that seed, or none."""
    if run.init is not None or space.warm_up is None:
        return run.init
    return str(warm_checkpoint(space, change(run, [("seed", seed)])))


def _resume(space: SearchSpace, run: TrainRun, name: str) -> _Begun:
    assert run.results is not None
    root = Path(run.results) / space.name
    folder = root / name.removeprefix(f"{space.name}-")
    journal = Journal(folder)
    if not (folder / "plan.json").is_file():
        there = ", ".join(f"{space.name}-{path.parent.name}" for path in sorted(root.glob("[0-9]*/plan.json")))
        raise ConfigError(f"--resume {name}: there is no such sweep in {root}; there are: {there or 'none'}")
    plan = journal.read_plan()
    base = validated(plan.base)
    _check_same(space, plan, change(run, space.fixed.items()), base, name=name)
    check_cluster(base)
    _await_orphans(base, plan.name)
    handle = _open(space, base, plan, folder, run_id=read_status(folder)["mlflow_run_id"])
    return _Begun(space, plan, base, journal, handle, _memory(base))


def _check_same(space: SearchSpace, plan: Plan, run: TrainRun, base: TrainRun, *, name: str) -> None:
    before, now = flatten(base.model_dump(mode="json")), flatten(run.model_dump(mode="json"))
    changed = [
        f"{path} was {before.get(path)!r}, is {now.get(path)!r}"
        for path in sorted({*before, *now} - {"name"})
        if before.get(path) != now.get(path) and not path.startswith(FREE_TO_CHANGE)
    ]
    if plan.domains != _in_words(space):
        changed.append(f"the domains were {plan.domains}, are {_in_words(space)}")
    if changed:
        raise ConfigError(
            f"--resume {name}: the sweep was started differently: {'; '.join(changed)}. Repeat its settings to resume "
            f"it, or leave --resume out to start another"
        )


def _await_orphans(base: TrainRun, name: str) -> None:
    """Wait until the processes of a driver that was killed are gone, which hold the names of its trials."""
    until = time.monotonic() + ORPHAN_SECONDS
    for folder in _running(base, name):
        while is_held(_named(base, folder.parent.name)) and time.monotonic() < until:
            time.sleep(0.2)


def _in_words(space: SearchSpace) -> dict[str, str]:
    return {path: _domain_in_words(domain) for path, domain in space.domains.items()}


def _domain_in_words(declared: Any) -> str:
    domain = domain_of(declared, "")
    if isinstance(domain, Categorical):
        return str(list(domain.categories))
    return f"{domain.domain_str}, {type(domain.get_sampler()).__name__}"


def _open(space: SearchSpace, base: TrainRun, plan: Plan, folder: Path, *, run_id: str | None) -> RunHandle:
    assert base.results is not None
    handle = open_run(
        base.tracking.model_copy(update={"run_name": plan.name}),
        results_root=Path(base.results),
        folder=folder,
        params={**base.model_dump(mode="json"), "sweep": plan.domains},
        tags={"tats.kind": "sweep", "tats.sweep": plan.name, "tats.folder": str(folder)},
        description=describe_sweep(base, knobs=list(space.domains), metric=space.metric, mode=space.mode),
        run_id=run_id,
    )
    write_status(folder, "RUNNING", handle)
    return handle


def _not_worth_starting(begun: _Begun, planned: Planned) -> Trial | None:
    """Return the ending of a trial that cannot do what it should; None for the others."""
    ending = partial(Trial, planned.name, planned.knobs, planned.seed)
    try:
        run = trial_run(begun.told, planned)
    except ConfigError as error:
        return ending(status="refused", reason=str(error))
    reason = why_it_cannot_act(run, list(planned.knobs))
    if reason is not None:
        return ending(status="refused", reason=reason)
    reason = why_it_cannot_fit(run, begun.memory)
    return None if reason is None else ending(status="pruned", reason=reason)


def _run_trials(begun: _Begun) -> None:
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # tracebacks of trials: their reason is in the table
    options, base, settled = begun.plan.options, begun.base, begun.journal.settled()
    waiting = [_as_it_is_now(begun, planned) for planned in begun.plan.trials if planned.name not in settled]
    suggested = None
    if options.search == "tpe":
        suggested = SuggestedTrials(begun.space, begun.plan, begun.journal, judge=partial(_not_worth_starting, begun))
    elif not waiting:
        return
    total = (options.trials or 0) * len(options.seeds) if suggested else len(begun.plan.trials)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(begun.plan.name, total=total, completed=len(settled))
        recorder = Recorder(begun.journal, options.scheduler, progress=progress, task=task)
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
                max_concurrent_trials=concurrent_trials(base, ray.cluster_resources()["CPU"]),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"{trial.config['trial']['name']}-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(begun.journal.folder),
                verbose=0,
                callbacks=[recorder],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a run's are in its own folder
                failure_config=tune.FailureConfig(max_failures=base.cluster.max_failures),
            ),
        ).fit()


def _as_it_is_now(begun: _Begun, planned: Planned) -> Planned:
    """Return a trial with the knobs that it took over last."""
    segments = begun.journal.segments(planned.name)
    return replace(planned, knobs=segments[-1].knobs) if segments else planned


def _resources(run: TrainRun) -> dict[str, float]:
    """Return what Tune reserves for a trial: all that it takes, or little where its workers are Ray Train's."""
    if run.cluster.num_workers > 1:
        return {"CPU": 0.01}
    use_gpu = check_fits(run.cluster, node_resources())
    return {"CPU": trial_cpus(run), **({"GPU": 1} if use_gpu else {})}


def _memory(run: TrainRun) -> float:
    """Return the bytes that a worker of a run can have at most."""
    nodes = node_resources()
    on_gpu = gpu_bytes() if check_fits(run.cluster, nodes) else None
    return max(node.get("memory", 0.0) for node in nodes) if on_gpu is None else on_gpu


def _collect(begun: _Begun) -> list[Trial]:
    """Return all trials with what they measured, in the order of the plan; close the records of those cut short."""
    end_as_killed(begun.base, _running(begun.base, begun.plan.name), patience=KILL_SECONDS)
    ended = begun.journal.ended()
    trials = []
    for planned in begun.plan.trials:
        trial = ended[planned.name]
        folder = newest_folder(_named(begun.base, f"{begun.plan.name}-{planned.name}"))
        if folder is not None:
            trial = replace(trial, folder=str(folder), run_id=read_status(folder).get("mlflow_run_id"))
        trial = with_measurements(trial, metric=begun.space.metric, parent=begun.handle)
        begun.journal.end(trial)
        trials.append(trial)
    return trials


def _report(begun: _Begun, trials: list[Trial]) -> Report:
    """Write the page with its files, and record them."""
    space, options = begun.space, begun.plan.options
    question = Question(
        name=space.name,
        metric=space.metric,
        mode=space.mode,
        base=begun.base.model_copy(update={"init": begun.plan.starts[str(options.seeds[0])]}),
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
    return report


def _end(begun: _Begun, status: Ending, reason: str | None) -> None:
    write_status(begun.journal.folder, status, begun.handle)
    end_family(begun.base, begun.handle, begun.plan.name, status, reason)
