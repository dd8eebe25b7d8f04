"""Which trials a sweep has: enumerated, drawn or suggested, less those that cannot act or cannot fit."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from statistics import fmean
from typing import Any

from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from tats_ray.cluster.search_space import SearchSpace, domain_of, draws, grid, plain
from tats_ray.config.error import ConfigError
from tats_ray.config.overrides import knobs, unknown_knob
from tats_ray.config.run import TrainRun
from tats_ray.sweeping.journal import Journal, Options, Plan, Planned
from tats_ray.sweeping.trials import Trial

Judge = Callable[[Planned], Trial | None]
"""Returns the ending of a trial that is not worth starting; None for the others."""


def check_space(space: SearchSpace, options: Options, run: TrainRun) -> None:
    """Refuse a space or options that no trial can come of.

    Raises:
        ConfigError: An unknown path, a domain that is none or does not suit the search, or no number of trials.
    """
    known = {knob.path for knob in knobs(run)}
    for path, declared in space.domains.items():
        if path not in known:
            raise unknown_knob(path, known)
        domain_of(declared, path)
    if options.trials is not None and options.trials < 1:
        raise ConfigError(f"--trials must be at least 1, got {options.trials}")
    if len(set(options.seeds)) < len(options.seeds):
        raise ConfigError(f"--seeds must differ from each other, got {' '.join(map(str, options.seeds))}")
    if options.search == "grid":
        grid(space, limit=options.trials)
    elif options.trials is None:
        raise ConfigError(f"--search {options.search} does not end by itself; give --trials, say --trials 8")


def configurations(space: SearchSpace, options: Options) -> list[dict[str, Any]]:
    """Return the configurations that are known before the first trial ends; none of a search that learns."""
    match options.search:
        case "grid":
            return grid(space, limit=options.trials)
        case "random":
            return list(islice(draws(space, seed=options.seeds[0]), options.trials))
        case "tpe":
            return []


def with_seeds(number: int, configuration: Mapping[str, Any], seeds: Iterable[int]) -> list[Planned]:
    """Return the trials of a configuration, one for each seed."""
    seeds = list(seeds)
    suffix = "-s{}" if len(seeds) > 1 else ""
    return [Planned(f"{number:03d}{suffix.format(seed)}", configuration, seed) for seed in seeds]


class SuggestedTrials(Searcher):
    """Optuna's tree-structured Parzen estimator behind a journal: each suggestion is written down before it starts.

    All seeds of a configuration are trained, and their mean is what Optuna is told. A configuration that is refused or
    pruned counts as a failed one. After a restart, trials that did not end come first, and Optuna is told the
    configurations that did; what it had suggested beside them it has forgotten.
    """

    def __init__(self, space: SearchSpace, plan: Plan, journal: Journal, *, judge: Judge) -> None:
        super().__init__(metric=space.metric, mode=space.mode)
        self._plan = plan
        self._journal = journal
        self._judge = judge
        domains = {path: domain_of(declared, path) for path, declared in space.domains.items()}
        self._optuna = OptunaSearch(
            OptunaSearch.convert_search_space(domains),
            metric=space.metric,
            mode=space.mode,
            seed=plan.options.seeds[0],
        )
        self._started: dict[str, Planned] = {}  # by Tune's own name
        self._values: dict[str, dict[int, float]] = {}  # of configurations of which not all seeds have ended
        self._asked: set[str] = set()  # of Optuna, in this process
        ended = journal.settled()
        self._waiting = deque(trial for trial in plan.trials if trial.name not in ended)
        for trial in plan.trials:
            if trial.name in ended:
                self._note(trial, ended[trial.name].metrics.get(space.metric))

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial, as Tune's configuration of it."""
        while not self._waiting:
            number = len(self._plan.trials) // len(self._plan.options.seeds)
            if number >= (self._plan.options.trials or 0):
                return Searcher.FINISHED
            self._add(number)
        planned = self._waiting.popleft()
        self._started[trial_id] = planned
        return {"trial": {"name": planned.name, "knobs": dict(planned.knobs), "seed": planned.seed}}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass the value on."""
        planned = self._started.pop(trial_id)
        value = None if error or result is None or "failed" in result else result[str(self.metric)]
        self._note(planned, value)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it."""

    def _add(self, number: int) -> None:
        """Ask Optuna for one more configuration."""
        key = f"{number:03d}"
        suggested = self._optuna.suggest(key)
        assert suggested is not None
        self._asked.add(key)
        added = with_seeds(number, {path: plain(value) for path, value in suggested.items()}, self._plan.options.seeds)
        self._plan.trials.extend(added)
        self._journal.write_plan(self._plan)
        for planned in added:
            ending = self._judge(planned)
            if ending is None:
                self._waiting.append(planned)
            else:
                self._journal.end(ending)
                self._note(planned, None)

    def _note(self, planned: Planned, value: float | None) -> None:
        key = planned.name.partition("-")[0]
        values = self._values.setdefault(key, {})
        values[planned.seed] = float("nan") if value is None else value
        if len(values) < len(self._plan.options.seeds):
            return
        mean = fmean(self._values.pop(key).values())
        failed = mean != mean
        if key in self._asked:
            self._optuna.on_trial_complete(key, None if failed else {str(self.metric): mean}, error=failed)
        elif not failed:
            self._optuna.add_evaluated_point(dict(planned.knobs), mean)
