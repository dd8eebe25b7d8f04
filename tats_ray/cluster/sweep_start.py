"""How a sweep begins, or goes on: checked, planned and opened; its warm-up, and the trials not worth starting."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray.tune.search.sample import Categorical

from tats_ray.claims import next_number
from tats_ray.cluster.planning import check_space, configurations, with_seeds
from tats_ray.cluster.runtime import node_resources, on_node
from tats_ray.cluster.schedulers import check_scheduler
from tats_ray.cluster.search_space import SearchSpace, domain_of
from tats_ray.cluster.train import check_cluster, check_fits, run_on_ray
from tats_ray.cluster.trial import Sweep, trial_run
from tats_ray.config.error import ConfigError
from tats_ray.config.labels import describe_sweep
from tats_ray.config.overrides import change, flatten, validated
from tats_ray.config.run import TrainRun
from tats_ray.copies import where
from tats_ray.driver import FREE_TO_CHANGE, conduct, prepare
from tats_ray.mirror import exists, listed
from tats_ray.run_folder import abandoned, new_folder, read_status, write_status
from tats_ray.sweeping.acting import why_it_cannot_act
from tats_ray.sweeping.fitting import why_it_cannot_fit
from tats_ray.sweeping.journal import Journal, Options, Plan, Planned
from tats_ray.sweeping.trials import Trial
from tats_ray.tracking.base import RunHandle
from tats_ray.tracking.mlflow import open_run
from tats_ray.training.state import latest_checkpoint


@dataclass
class Begun:
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
        return Sweep(
            plan.name,
            self.journal.folder,
            self.base,
            self.space.metric,
            plan.starts,
            self.handle.run_id,
            decides=plan.options.scheduler != "none",
        )


def begin(space: SearchSpace, run: TrainRun, options: Options) -> Begun:
    """Check a sweep, train its warm-ups, plan it and open its record.

    Raises:
        RunFailedError: A warm-up failed.
        ConfigError: The base run, the space, the options or the cluster does not fit.
    """
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
        judged_by=f"{space.mode} {space.metric}",
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
        begun = Begun(space, plan, base, journal, _open(space, base, plan, folder, run_id=None), _memory(base))
    for planned in plan.trials:
        ending = not_worth_starting(begun, planned)
        if ending is not None:
            journal.end(ending)
    return begun


def go_on(space: SearchSpace, run: TrainRun, name: str) -> Begun:
    """Open a sweep that was interrupted.

    Raises:
        ConfigError: There is no such sweep, it was started differently, or the cluster does not fit.
    """
    root = run.root / space.name
    folder = root / name.removeprefix(f"{space.name}-")
    journal = Journal(folder)
    if not exists(folder / "plan.json"):
        plans = [path for path in listed(root, depth=2) if path.name == "plan.json"]
        there = ", ".join(f"{space.name}-{path.parent.name}" for path in plans)
        raise ConfigError(f"--resume {name}: there is no such sweep in {where(root)}; there are: {there or 'none'}")
    plan = journal.read_plan()
    base = change(run, space.fixed.items())  # addresses are this command's: the plan has no passwords
    _check_same(space, plan, base, validated(plan.base, kind=TrainRun), name=name)
    check_cluster(base)
    handle = _open(space, base, plan, folder, run_id=read_status(folder)["mlflow_run_id"])
    return Begun(space, plan, base, journal, handle, _memory(base))


def warm_checkpoint(space: SearchSpace, run: TrainRun) -> Path:
    """Return the last checkpoint of the space's warm-up run, which is trained once and found again by its settings."""
    assert space.warm_up is not None
    warm = change(run, space.warm_up.items())
    same = warm.model_copy(update={"cluster": None, "tracking": None, "name": ""})
    _, manifest = prepare(warm)
    digest = hashlib.sha256((repr(same) + manifest.hash).encode()).hexdigest()[:12]
    warm = named(warm, f"warm-{digest}")
    root = warm.root / warm.name
    for number in range(next_number(root) - 1, 0, -1):
        folder = root / f"{number:04d}"
        if read_status(folder).get("status") == "FINISHED":
            found = latest_checkpoint(folder / "checkpoints")
            if found is not None:
                return found
    outcome = conduct(warm, run_on_ray)
    found = latest_checkpoint(outcome.launch.folder / "checkpoints")
    assert found is not None
    return found


def not_worth_starting(begun: Begun, planned: Planned) -> Trial | None:
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


def named(run: TrainRun, name: str) -> TrainRun:
    """Return a run under another name."""
    return run.model_copy(update={"name": name})


def _start(space: SearchSpace, run: TrainRun, seed: int) -> str | None:
    """Return the checkpoint that a seed's trials start from: a given one, a warm-up's of that seed, or none."""
    if run.init is not None or space.warm_up is None:
        return run.init
    return where(warm_checkpoint(space, change(run, [("seed", seed)])))


def _check_same(space: SearchSpace, plan: Plan, now_run: TrainRun, before_run: TrainRun, *, name: str) -> None:
    before, now = (flatten(one.model_dump(mode="json")) for one in (before_run, now_run))
    changed = [
        f"{path} was {before.get(path)!r}, is {now.get(path)!r}"
        for path in sorted({*before, *now} - {"name"})
        if before.get(path) != now.get(path) and not path.startswith(FREE_TO_CHANGE)
    ]
    if plan.domains != _in_words(space):
        changed.append(f"the domains were {plan.domains}, are {_in_words(space)}")
    if plan.judged_by != (judged_by := f"{space.mode} {space.metric}"):
        changed.append(f"it was judged by {plan.judged_by}, is by {judged_by}")
    if changed:
        raise ConfigError(
            f"--resume {name}: the sweep was started differently: {'; '.join(changed)}. Repeat its settings to resume "
            f"it, or leave --resume out to start another"
        )


def _open(space: SearchSpace, base: TrainRun, plan: Plan, folder: Path, *, run_id: str | None) -> RunHandle:
    handle = open_run(
        base.tracking.model_copy(update={"run_name": plan.name}),
        results_root=base.root,
        folder=folder,
        params={**base.model_dump(mode="json"), "sweep": plan.domains},
        tags={"tats.kind": "sweep", "tats.sweep": plan.name, "tats.folder": where(folder)},
        description=describe_sweep(base, knobs=list(space.domains), metric=space.metric, mode=space.mode),
        run_id=run_id,
    )
    write_status(folder, "RUNNING", handle)
    return handle


def _in_words(space: SearchSpace) -> dict[str, str]:
    return {path: _domain_in_words(domain) for path, domain in space.domains.items()}


def _domain_in_words(declared: Any) -> str:
    domain = domain_of(declared, "")
    if isinstance(domain, Categorical):
        return str(list(domain.categories))
    return f"{domain.domain_str}, {type(domain.get_sampler()).__name__}"


def _memory(run: TrainRun) -> float:
    """Return the bytes that a worker of a run can have at most."""
    nodes = node_resources()
    on_gpu = _gpu_bytes() if check_fits(run.cluster, nodes) else None
    return max(node.get("memory", 0.0) for node in nodes) if on_gpu is None else on_gpu


def _gpu_bytes() -> float | None:
    """Return the memory of the cluster's smallest GPU, asked of each machine that has one; None without GPUs."""
    with_gpu = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    asked = [_ask_gpu.options(num_gpus=0.01, scheduling_strategy=on_node(node)).remote() for node in with_gpu]
    return min(ray.get(asked), default=None)


@ray.remote(num_cpus=0)
def _ask_gpu() -> float:
    return float(torch.cuda.get_device_properties(0).total_memory)
