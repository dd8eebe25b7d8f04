"""Which trials a sweep has, what is refused before anything starts, and what Optuna is told."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from tats_ray.cluster.planning import SuggestedTrials, check_space, configurations, with_seeds
from tats_ray.cluster.schedulers import _within, check_scheduler, make_scheduler
from tats_ray.cluster.search_space import SearchSpace, draws, grid, is_logarithmic
from tats_ray.cluster.tune import concurrent_trials
from tats_ray.config.error import ConfigError
from tats_ray.config.run import TrainRun
from tats_ray.sweeping.journal import Journal, Options, Plan, Planned
from tats_ray.sweeping.trials import Trial

RATE, DECAY, RATIO = "optim.base_learning_rate", "optim.weight_decay", "masking.mask_ratio"
METRIC = "validation/random_mask_error"
PBT = Options("random", "pbt", trials=4)


def space_of(**domains: Any) -> SearchSpace:
    named = {name.replace("__", "."): domain for name, domain in domains.items()}
    return SearchSpace(name="space", recipe="tiny", metric=METRIC, mode="min", domains=named)


LISTS = space_of(masking__mask_ratio=tune.choice([0.9, 0.75]), optim__weight_decay=tune.grid_search([0.0, 0.1]))
RATES = space_of(optim__base_learning_rate=tune.loguniform(0.01, 0.1))


@pytest.fixture
def run(small_run: Callable[..., TrainRun]) -> TrainRun:
    return small_run("base", manifest=Path("/m"), results=Path("/r"), knobs={"cluster.num_workers": 1})


def test_a_grid_turns_its_last_knob_fastest_and_is_cut_at_its_end() -> None:
    found = [(point[RATIO], point[DECAY]) for point in grid(LISTS, limit=None)]
    assert found == [(0.9, 0.0), (0.9, 0.1), (0.75, 0.0), (0.75, 0.1)]
    assert configurations(LISTS, Options("grid", trials=3)) == grid(LISTS, limit=None)[:3]


def test_draws_come_again_with_their_seed_and_never_twice() -> None:
    first, again, other = (list(islice(draws(RATES, seed=seed), 5)) for seed in (0, 0, 1))
    assert first == again != other
    assert all(0.01 <= point[RATE] <= 0.1 for point in first)
    assert isinstance(first[0][RATE], float)
    assert sorted(map(str, draws(LISTS, seed=0))) == sorted(map(str, grid(LISTS, limit=None)))


def test_each_configuration_has_a_trial_for_each_seed() -> None:
    assert with_seeds(3, {"a": 1}, [7]) == [Planned("003", {"a": 1}, 7)]
    assert [one.name for one in with_seeds(3, {"a": 1}, [0, 7])] == ["003-s0", "003-s7"]


def test_what_is_drawn_in_logarithms_is_known() -> None:
    assert is_logarithmic(tune.loguniform(0.1, 1), "x")
    assert is_logarithmic(tune.qloguniform(0.1, 1, 0.1), "x")
    assert not is_logarithmic(tune.uniform(0.1, 1), "x")


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (space_of(optim__base_learning_rat=tune.choice([1])), Options(), "did you mean optim.base_learning_rate"),
        (space_of(optim__weight_decay=[0.1]), Options(), "the domain of optim.weight_decay must be"),
        (RATES, Options("grid"), "--search grid needs a list of values for optim.base_learning_rate"),
        (RATES, Options("random"), "give --trials"),
        (RATES, Options("tpe", trials=0), "--trials must be at least 1, got 0"),
        (LISTS, Options(seeds=(1, 1)), "--seeds must differ"),
    ],
)
def test_a_space_that_no_trial_can_come_of_is_refused(
    space: SearchSpace, options: Options, message: str, run: TrainRun
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space(space, options, run)


@pytest.mark.parametrize(
    ("space", "options", "workers", "message"),
    [
        (RATES, PBT, 2, "cluster.num_workers=2 trains in a TorchTrainer of its own"),
        (LISTS, Options("grid", "asha"), 2, "cluster.num_workers=2 trains in a TorchTrainer of its own"),
        (LISTS, Options("grid", "pbt"), 1, "needs a population of random ones, got --search grid"),
        (RATES, Options("tpe", "pbt", trials=4), 1, "needs a population of random ones, got --search tpe"),
        (RATES, replace(PBT, trials=1), 1, "needs a population, got --trials 1"),
        (RATES, replace(PBT, seeds=(0, 1)), 1, "give one seed"),
        (space_of(training__global_batch=tune.choice([4, 8])), PBT, 1, "training.global_batch cannot change then"),
        (space_of(masking__visible__embed_dim=tune.choice([8, 16])), PBT, 1, "embed_dim cannot change then"),
    ],
)
def test_a_scheduler_that_cannot_work_is_refused(
    space: SearchSpace, options: Options, workers: int, message: str, run: TrainRun
) -> None:
    run = run.model_copy(update={"cluster": run.cluster.model_copy(update={"num_workers": workers})})
    with pytest.raises(ConfigError, match=message):
        check_scheduler(space, options, run)


def test_asha_looks_at_a_quarter_and_never_stops_a_trial_at_its_end() -> None:
    scheduler = make_scheduler(LISTS, Options("grid", "asha"), total_steps=200, checkpoint_every=20)
    assert isinstance(scheduler, ASHAScheduler)
    (bracket,) = scheduler._brackets
    assert [milestone for milestone, _ in bracket._rungs] == [200, 100, 50]
    assert scheduler._max_t > 200


def test_perturbed_numbers_go_back_into_their_domains() -> None:
    space = space_of(
        optim__base_learning_rate=tune.loguniform(0.01, 0.1),
        masking__visible__ppo__update_epochs=tune.randint(1, 4),
        optim__weight_decay=tune.choice([0.0, 0.1]),
    )
    epochs = "masking.visible.ppo.update_epochs"
    config = {"trial": {"name": "000", "seed": 0, "knobs": {RATE: 0.12, epochs: 5, DECAY: 0.1}}}
    knobs = _within(space)(config)["trial"]["knobs"]
    assert knobs == {RATE: 0.1, epochs: 3, DECAY: 0.1}
    assert isinstance(knobs[epochs], int)


@pytest.mark.parametrize(("workers", "cpus", "trials"), [(1, 4.0, 2), (1, 2.0, 1), (3, 4.0, 1), (3, 9.0, 2)])
def test_no_more_trials_at_once_than_the_cluster_can_train(
    small_run: Callable[..., TrainRun], workers: int, cpus: float, trials: int
) -> None:
    knobs = {"cluster.num_workers": workers, "training.global_batch": 12}
    run = small_run("many", manifest=Path("/m"), results=Path("/r"), knobs=knobs)
    assert concurrent_trials(run, cpus) == trials


class Told:
    """Optuna's place: suggests rates in order, and keeps what it is told."""

    def __init__(self) -> None:
        self.suggested = 0
        self.told: list[tuple[Any, ...]] = []

    def suggest(self, key: str) -> dict[str, Any]:
        self.suggested += 1
        return {RATE: self.suggested / 100}

    def on_trial_complete(self, key: str, result: dict[str, float] | None, error: bool = False) -> None:
        self.told.append((key, None if result is None else result[METRIC], error))

    def add_evaluated_point(self, knobs: dict[str, Any], value: float) -> None:
        self.told.append((knobs[RATE], value))


@pytest.fixture
def optuna(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()

    class Stub:
        convert_search_space = staticmethod(lambda domains: domains)

        def __new__(cls, *_: object, **__: object) -> Any:
            return told

    monkeypatch.setattr("tats_ray.cluster.planning.OptunaSearch", Stub)
    return told


def plan_of(*trials: Planned, number: int = 2) -> Plan:
    options = Options("tpe", trials=number, seeds=(0, 1))
    return Plan("rates-0001", options, domains={}, judged_by="min loss", base={}, starts={}, trials=list(trials))


def test_optuna_is_told_the_mean_of_all_seeds_once(tmp_path: Path, optuna: Told) -> None:
    journal = Journal(tmp_path)
    search = SuggestedTrials(RATES, plan_of(), journal, judge=lambda planned: None)
    names = [search.suggest(f"t{n}")["trial"]["name"] for n in range(4)]
    assert names == ["000-s0", "000-s1", "001-s0", "001-s1"]
    assert search.suggest("t4") == Searcher.FINISHED
    assert [one.name for one in journal.read_plan().trials] == names
    search.on_trial_complete("t0", {METRIC: 0.2})
    search.on_trial_complete("t2", {METRIC: 0.5})
    assert optuna.told == []
    search.on_trial_complete("t1", {METRIC: 0.4})
    search.on_trial_complete("t3", {METRIC: 0.5, "failed": "not finite"})
    assert optuna.told == [("000", pytest.approx(0.3), False), ("001", None, True)]


def test_what_is_not_worth_starting_is_passed_over_and_written_down(tmp_path: Path, optuna: Told) -> None:
    journal = Journal(tmp_path)

    def judge(planned: Planned) -> Trial | None:
        refused = Trial(planned.name, planned.knobs, planned.seed, status="refused", reason="no")
        return refused if planned.knobs[RATE] == 0.01 else None

    search = SuggestedTrials(RATES, plan_of(), journal, judge=judge)
    assert search.suggest("t0")["trial"]["name"] == "001-s0"
    assert journal.ended().keys() == {"000-s0", "000-s1"}
    assert optuna.told == [("000", None, True)]


def test_resumed_it_goes_on_with_what_did_not_end_and_knows_what_did(tmp_path: Path, optuna: Told) -> None:
    journal = Journal(tmp_path)
    trials = [*with_seeds(0, {RATE: 0.03}, (0, 1)), *with_seeds(1, {RATE: 0.04}, (0, 1))]
    for name, value in (("000-s0", 0.2), ("000-s1", 0.4), ("001-s0", 0.6)):
        journal.end(Trial(name, {}, 0, status="finished", metrics={METRIC: value}))
    search = SuggestedTrials(RATES, plan_of(*trials), journal, judge=lambda planned: None)
    assert optuna.told == [(0.03, pytest.approx(0.3))]
    assert search.suggest("t0")["trial"] == {"name": "001-s1", "knobs": {RATE: 0.04}, "seed": 1}
    assert search.suggest("t1") == Searcher.FINISHED
    search.on_trial_complete("t0", {METRIC: 0.8})
    assert optuna.told[1:] == [(0.04, pytest.approx(0.7))]
