"""Tune's schedulers by the names that a flag gives them, refused where they could not work."""

import random
from collections.abc import Callable, Mapping
from typing import Any, assert_never

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search.sample import Categorical, Float, Integer

from tats_ray.cluster.search_space import SearchSpace, domain_of
from tats_ray.config.error import ConfigError
from tats_ray.config.run import TrainRun
from tats_ray.sweeping.journal import Options

MAY_CHANGE = ("optim.", "masking.mask_ratio", "masking.visible.ppo.", "masking.visible.loss_weight")
"""Knobs, or how they begin, that a run can go on with changed: no parameter's shape, no clip and no step depends on
them. The learning rate's schedule is a function of the step, so a changed rate applies from there on."""

RUNGS, REDUCTION = 4, 2
"""ASHA lets the better half go on at a quarter and at a half of the run."""
PERTURBATIONS = 4
"""Population based training looks at the population that often."""


def check_scheduler(space: SearchSpace, options: Options, run: TrainRun) -> None:
    """Refuse what cannot work, before anything starts.

    Raises:
        ConfigError: With the reason and the way out.
    """
    if options.scheduler == "none":
        return
    if run.cluster.num_workers > 1:
        raise ConfigError(
            f"--scheduler {options.scheduler} decides while trials train, and a trial with cluster.num_workers="
            f"{run.cluster.num_workers} trains in a TorchTrainer of its own, which Tune can neither pause nor clone; "
            f"use cluster.num_workers=1, or --scheduler none"
        )
    if options.scheduler == "pbt":
        _check_pbt(space, options)


def make_scheduler(space: SearchSpace, options: Options, *, total_steps: int, checkpoint_every: int) -> TrialScheduler:
    """Return the scheduler of a sweep; it decides at the trials' checkpoints.

    Args:
        space: Its domains are what population based training perturbs.
        options: Say which.
        total_steps: Of a trial.
        checkpoint_every: Steps between two checkpoints of a trial.
    """
    match options.scheduler:
        case "none":
            return FIFOScheduler()
        case "asha":
            return ASHAScheduler(
                time_attr="step",
                max_t=total_steps + 1,  # the last report is an ending, not a stop
                grace_period=max(1, total_steps // RUNGS),
                reduction_factor=REDUCTION,
            )
        case "pbt":
            random.seed(options.seeds[0])  # of Tune's own choices
            return EvenPopulation(
                time_attr="step",
                perturbation_interval=max(checkpoint_every, total_steps // PERTURBATIONS),
                hyperparam_mutations={"trial": {"knobs": _mutations(space)}},
                quantile_fraction=0.25,
                custom_explore_fn=_within(space),
                log_config=False,
            )
        case never:
            assert_never(never)


class EvenPopulation(PopulationBasedTraining):
    """Compares a population at equal steps: who has come so far waits, paused, for all that have not ended.

    So it does not depend on their speed who is cloned, and a population may be larger than what is trained at once.
    Tune's own class would wait for ever for a trial that ended on the way.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(synch=True, **options)
        self._gone: list[Trial] = []

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict) -> str:
        """Pause a trial that has come to where the population is compared, and compare it when it is the last."""
        for gone in self._gone:
            # Nobody waits for it.
            self._trial_state[gone].last_train_time = int(self._next_perturbation_sync)
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict) -> None:
        """Let the others go on without it."""
        self._leave(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Let the others go on without it."""
        self._leave(tune_controller, trial)

    def _leave(self, tune_controller: Any, trial: Trial) -> None:
        self._gone.append(trial)
        self._trial_state[trial].last_score = None  # Tune calls it running for a while
        for other in tune_controller.get_trials():
            state = self._trial_state[other]
            if other not in self._gone and state.last_train_time >= self._next_perturbation_sync:
                self.on_trial_result(tune_controller, other, state.last_result or {})


def _check_pbt(space: SearchSpace, options: Options) -> None:
    if options.search != "random":
        raise ConfigError(
            f"--scheduler pbt perturbs its configurations itself and needs a population of random ones, got --search "
            f"{options.search}; use --search random, or --scheduler asha"
        )
    if len(options.seeds) > 1:
        raise ConfigError(
            f"--scheduler pbt clones trials into each other, so that seeds of a configuration do not stay apart, got "
            f"--seeds {' '.join(map(str, options.seeds))}; give one seed, or another scheduler"
        )
    if (options.trials or 0) < 2:
        raise ConfigError(f"--scheduler pbt needs a population, got --trials {options.trials}; give at least 2, say 8")
    for path in space.domains:
        if not path.startswith(MAY_CHANGE):
            raise ConfigError(
                f"--scheduler pbt changes knobs while a trial trains, and {path} cannot change then: shapes, clips or "
                f"steps depend on it. It can perturb {', '.join(MAY_CHANGE)}; leave {path} out of the domains, or use "
                f"another scheduler"
            )


def _mutations(space: SearchSpace) -> dict[str, Any]:
    """Return what Tune perturbs: lists are walked one step to the side, numbers are multiplied by 0.8 or 1.2."""
    domains = {path: domain_of(declared, path) for path, declared in space.domains.items()}
    return {path: domain.categories if isinstance(domain, Categorical) else domain for path, domain in domains.items()}


def _within(space: SearchSpace) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that puts perturbed numbers back into their domains, which Tune leaves."""
    limits = {
        path: (domain.lower, domain.upper - isinstance(domain, Integer))
        for path, declared in space.domains.items()
        if isinstance(domain := domain_of(declared, path), Float | Integer)
    }

    def clip(config: dict[str, Any]) -> dict[str, Any]:
        trial: Mapping[str, Any] = config["trial"]
        knobs = {path: _clip(value, *limits.get(path, (None, None))) for path, value in trial["knobs"].items()}
        return {**config, "trial": {**trial, "knobs": knobs}}

    return clip


def _clip(value: Any, lower: float | None, upper: float | None) -> Any:
    if lower is None or upper is None:
        return value
    return type(value)(min(max(value, lower), upper))
