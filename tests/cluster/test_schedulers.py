"""A population that is compared at equal steps, as Tune drives it: who waits, who is cloned, and who is not awaited."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from tats_ray.cluster.schedulers import EvenPopulation, make_scheduler
from tats_ray.cluster.search_space import SearchSpace
from tats_ray.sweeping.journal import Options

METRIC, RATE = "validation/random_mask_error", "optim.base_learning_rate"
SPACE = SearchSpace("space", "tiny", METRIC, "min", domains={RATE: tune.loguniform(1e-4, 1.0)})


@dataclass(eq=False)
class Training:
    """A trial's place in Tune."""

    trial_id: str
    rate: float
    status: str = Trial.RUNNING
    experiment_tag: str = ""

    def __post_init__(self) -> None:
        self.config: dict[str, Any] = {"trial": {"name": self.trial_id, "knobs": {RATE: self.rate}, "seed": 0}}
        self.evaluated_params: dict[str, Any] = {}
        self.last_result: dict[str, Any] = {}
        self.checkpoint = f"checkpoint of {self.trial_id}"
        self.temporary_state = SimpleNamespace(saving_to=None)
        manager = SimpleNamespace(checkpoint_config=SimpleNamespace(num_to_keep=None), _latest_checkpoint_result=None)
        self.run_metadata = SimpleNamespace(checkpoint_manager=manager)

    def is_finished(self) -> bool:
        return self.status in (Trial.TERMINATED, Trial.ERROR)

    def set_experiment_tag(self, tag: str) -> None:
        pass

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config

    @property
    def source(self) -> str | None:
        """What it goes on from, if that is another's."""
        found = self.run_metadata.checkpoint_manager._latest_checkpoint_result
        return None if found is None else found.checkpoint


@dataclass
class Controller:
    """Tune's place: whatever reports, and is paused, has a checkpoint."""

    scheduler: EvenPopulation
    trials: list[Training]
    search_alg: None = None
    decisions: list[str] = field(default_factory=list)

    def get_trials(self) -> list[Training]:
        return self.trials

    def get_live_trials(self) -> set[Training]:
        return set(self.trials)  # as in Tune, trials that failed stay among them

    def pause_trial(self, trial: Training, should_checkpoint: bool) -> None:
        trial.status = Trial.PAUSED

    def _schedule_trial_save(self, trial: Training, result: dict[str, Any]) -> str:
        return trial.checkpoint

    def report(self, trial: Training, *, step: int, value: float) -> str:
        trial.status = Trial.RUNNING
        decision = self.scheduler.on_trial_result(self, trial, {"step": step, METRIC: value})  # type: ignore[arg-type]
        if decision == TrialScheduler.PAUSE:
            trial.status = Trial.PAUSED
        return decision

    def fail(self, trial: Training) -> None:
        self.scheduler.on_trial_error(self, trial)  # type: ignore[arg-type]
        trial.status = Trial.ERROR

    def complete(self, trial: Training) -> None:
        self.scheduler.on_trial_complete(self, trial, {})  # type: ignore[arg-type]
        trial.status = Trial.TERMINATED

    @property
    def goes_on(self) -> bool:
        return self.scheduler.choose_trial_to_run(self) is not None  # type: ignore[arg-type]


@pytest.fixture
def tuning() -> Controller:
    """Three trials of 40 steps, compared at 10, 20 and 30."""
    options = Options("random", "pbt", trials=3)
    scheduler = make_scheduler(SPACE, options, total_steps=40, checkpoint_every=5)
    assert isinstance(scheduler, EvenPopulation)
    scheduler.set_search_properties(METRIC, "min")
    controller = Controller(scheduler, [Training(str(n), 0.01) for n in range(3)])
    for trial in controller.trials:
        scheduler.on_trial_add(controller, trial)  # type: ignore[arg-type]
    return controller


def test_the_worst_becomes_a_clone_of_the_best_when_all_have_come_as_far(tuning: Controller) -> None:
    fast, slow, middle = tuning.trials
    assert tuning.report(fast, step=5, value=9.0) == TrialScheduler.CONTINUE
    assert tuning.report(fast, step=10, value=3.0) == TrialScheduler.PAUSE
    assert tuning.report(middle, step=10, value=2.0) == TrialScheduler.PAUSE
    assert not tuning.goes_on
    tuning.report(slow, step=10, value=1.0)
    assert (fast.source, slow.source, middle.source) == (slow.checkpoint, None, None)
    assert fast.config["trial"]["knobs"][RATE] != 0.01
    assert tuning.goes_on
    assert tuning.report(fast, step=20, value=1.0) == TrialScheduler.PAUSE


@pytest.mark.parametrize("leave", [Controller.fail, Controller.complete])
def test_nobody_waits_for_a_trial_that_ended(tuning: Controller, leave: Any) -> None:
    first, second, gone = tuning.trials
    tuning.report(first, step=10, value=1.0)
    tuning.report(second, step=10, value=2.0)
    assert not tuning.goes_on
    leave(tuning, gone)
    assert second.source == first.checkpoint
    assert tuning.goes_on
    tuning.report(second, step=20, value=1.0)
    assert first.source is None
    tuning.report(first, step=20, value=2.0)
    assert first.source == second.checkpoint


def test_a_trial_that_ended_is_cloned_by_nobody(tuning: Controller) -> None:
    first, second, gone = tuning.trials
    tuning.report(gone, step=10, value=0.5)
    tuning.report(first, step=10, value=1.0)
    tuning.complete(gone)
    tuning.report(second, step=10, value=2.0)
    assert second.source == first.checkpoint
