"""Sweeps of tiny runs: what becomes of trials that end well, fail, are lost, stopped or cloned."""

import csv
import os
import runpy
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray
from mlflow import MlflowClient
from mlflow.entities import Run
from ray import tune

from tats_ray.cluster import schedulers, sweep_start
from tats_ray.cluster import trial as trials
from tats_ray.cluster import tune as sweeps
from tats_ray.cluster.search_space import SearchSpace
from tats_ray.cluster.sweep_start import warm_checkpoint
from tats_ray.cluster.trial import SweepTrial
from tats_ray.cluster.tune import SweepResult, sweep
from tats_ray.config.error import ConfigError
from tats_ray.config.files import read_run
from tats_ray.config.run import TrainRun
from tats_ray.run_folder import read_status
from tats_ray.sweeping.journal import Journal, Options
from tats_ray.training.state import checkpoint_measured, checkpoint_step, checkpoints
from tats_ray.worker import Launch

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))
at_checkpoints, children, steps_of = MADE["at_checkpoints"], MADE["children"], MADE["steps_of"]
METRIC = "validation/random_mask_error"
RATE = "optim.base_learning_rate"
GOOD, FAILING, KILLED, LOST, REFUSED = 0.05, 1e30, 0.06, 0.07, -1.0
"""Learning rates: one to learn with, one that no weight survives, one whose process is killed at its first checkpoint
and whenever it goes on, one whose process is killed there once, and one that there cannot be."""
SEEDS = (0, 1)
"""Processes are killed with the first alone."""
WARM_UP = {"training.steps": 2}
PLANTED_KEY = "key-that-no-log-may-hold"
WAIT_SECONDS = 400
"""When to give up on another trial; some are enough."""


@dataclass(frozen=True)
class Swept:
    """The one sweep that several tests look at."""

    space: SearchSpace
    run: TrainRun
    result: SweepResult


@pytest.fixture(scope="module")
def swept(local_ray: None, run_of: Callable[..., TrainRun]) -> Swept:
    """Two seeds from a warm checkpoint each, of five configurations."""
    run = run_of(training__steps=4)
    space = SearchSpace(
        name="rates",
        recipe="tiny",
        metric=METRIC,
        mode="min",
        domains={RATE: tune.grid_search([FAILING, KILLED, LOST, GOOD, REFUSED])},
        fixed={"optim.warmup_share": 0.0},
        warm_up=WARM_UP,
    )

    class Doomed(SweepTrial):
        def _execute(self, launch: Launch, **rest: Any) -> None:
            once = self._sweep.folder / f"lost-{self._planned.name}"
            rate = self._planned.knobs[RATE] if self._planned.seed == SEEDS[0] else GOOD

            def die() -> None:
                if rate == KILLED or (rate == LOST and not once.exists()):
                    once.touch()
                    os.kill(os.getpid(), signal.SIGKILL)

            if once.exists():
                die()
            trials.LocalContext = at_checkpoints(die)
            super()._execute(launch, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "SweepTrial", Doomed)
        patch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED_KEY)
        return Swept(space, run, sweep(space, run, Options(seeds=SEEDS)))


def rate(run: Run) -> float:
    return float(run.data.params[RATE])


@pytest.mark.ray
def test_a_trial_that_fails_or_is_killed_ends_no_other(swept: Swept, client: MlflowClient) -> None:
    ended = {(trial.knobs[RATE], trial.seed): trial.status for trial in swept.result.trials}
    statuses = {FAILING: "failed", KILLED: "finished", LOST: "finished", GOOD: "finished", REFUSED: "refused"}
    wanted = {(rate, seed): status for rate, status in statuses.items() for seed in SEEDS}
    assert ended == {**wanted, (KILLED, SEEDS[0]): "failed"}
    parent = client.get_run(swept.result.handle.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["tats.folder"] == str(swept.result.folder)
    found = [(rate(run), run.info.status) for run in children(client, parent.info.run_id)]
    recorded = [(GOOD, "FINISHED"), (LOST, "FINISHED"), (FAILING, "FAILED")] * len(SEEDS)
    assert sorted(found) == sorted([*recorded, (KILLED, "KILLED"), (KILLED, "FINISHED")])


@pytest.mark.ray
def test_seeds_of_a_configuration_are_one_row_with_mean_and_spread(swept: Swept) -> None:
    ranked = {one.knobs[RATE]: one for one in swept.result.report.ranking.configurations}
    assert {rate: list(one.scores) for rate, one in ranked.items()} == {
        GOOD: list(SEEDS),
        LOST: list(SEEDS),
        KILLED: [SEEDS[1]],
    }
    assert {rate for rate, one in ranked.items() if one.spread} == {GOOD, LOST}
    with swept.result.report.summary.open() as file:
        assert len(list(csv.DictReader(file))) >= 2


@pytest.mark.ray
def test_a_lost_trial_goes_on_from_its_checkpoint_and_repeats_no_point(swept: Swept, client: MlflowClient) -> None:
    (lost, _) = (trial for trial in swept.result.trials if trial.knobs[RATE] == LOST)
    assert (swept.result.folder / f"lost-{lost.name}").exists()
    assert lost.run_id is not None
    assert [point.step for point in lost.curve] == [1, 2, 3, 4]
    assert steps_of(client, lost.run_id, "reconstruction/loss") == [1, 2, 3, 4]
    assert Path(lost.folder or "").name == "0001"


@pytest.mark.ray
def test_why_a_trial_failed_stands_in_the_table_and_in_its_run(swept: Swept, client: MlflowClient) -> None:
    reasons = {(trial.knobs[RATE], trial.seed): str(trial.reason) for trial in swept.result.trials}
    for run in children(client, swept.result.handle.run_id):
        if run.info.status != "FINISHED":
            assert run.data.tags["tats.error"] == reasons[rate(run), int(run.data.params["seed"])]
    assert "not finite" in reasons[FAILING, 0]
    assert "died" in reasons[KILLED, 0]
    assert RATE in reasons[REFUSED, 0]
    with swept.result.report.trials.open() as file:
        text = file.read()
    assert "not finite" in text
    kept = {file.path for file in client.list_artifacts(swept.result.handle.run_id, "sweep")}
    assert {"sweep/trials.csv", "sweep/sweep.html", "sweep/best.yaml"} <= kept


@pytest.mark.ray
def test_a_key_of_the_driver_is_in_none_of_ray_s_logs(swept: Swept) -> None:
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    held = [path for path in logs.rglob("*") if path.is_file() and PLANTED_KEY in path.read_text(errors="replace")]
    assert held == []
    assert "PL_DISABLE_FORK" in (logs / "runtime_env_agent.log").read_text()  # which Tune hands on, and Ray logs


@pytest.mark.ray
def test_the_best_configuration_is_a_run_that_can_be_started(swept: Swept) -> None:
    assert swept.result.report.best is not None
    best = read_run(swept.result.report.best)
    assert best.optim.base_learning_rate in (GOOD, LOST, KILLED)
    assert best.training.steps == 4


@pytest.mark.ray
def test_the_warm_checkpoint_is_trained_once_for_each_seed(
    swept: Swept, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = {run.data.params["seed"]: run.data.params["init"] for run in children(client, swept.result.handle.run_id)}
    monkeypatch.setattr(sweep_start, "conduct", lambda *_, **__: pytest.fail("it was trained again"))
    for seed in SEEDS:
        found = warm_checkpoint(swept.space, swept.run.model_copy(update={"seed": seed}))
        assert str(found) == began[str(seed)]
        assert found.name == f"step_{WARM_UP['training.steps']:08d}"
    assert len(set(began.values())) == len(SEEDS)


@pytest.mark.ray
def test_what_cannot_fit_is_pruned_before_it_starts(
    swept: Swept, run_of: Callable[..., TrainRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_start, "_memory", lambda run: 1000.0)
    space = SearchSpace("large", "tiny", METRIC, "min", domains={RATE: tune.choice([GOOD])})
    (trial,) = sweep(space, run_of(training__steps=4)).trials
    assert trial.status == "pruned"
    assert "needs at least" in str(trial.reason)
    assert trial.folder is None


@pytest.mark.ray
def test_asha_stops_the_worse_half(
    local_ray: None, run_of: Callable[..., TrainRun], client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "concurrent_trials", lambda run, cpus: 1)  # so that each is judged by those before it
    rates = [0.05, 1e-6, 1e-7]
    space = SearchSpace("halving", "tiny", METRIC, "min", domains={RATE: tune.choice(rates)})
    result = sweep(space, run_of(training__steps=8), Options(scheduler="asha"))
    statuses = {trial.knobs[RATE]: trial.status for trial in result.trials}
    assert statuses == {0.05: "finished", 1e-6: "stopped", 1e-7: "stopped"}
    for trial in result.trials:
        assert trial.run_id is not None
        status = client.get_run(trial.run_id).info.status
        assert status == ("FINISHED" if trial.status == "finished" else "KILLED")
        if trial.status == "stopped":
            assert trial.reason == "asha stopped it at step 2"
            assert client.get_run(trial.run_id).data.tags["tats.stopped"] == trial.reason
            assert read_status(Path(trial.folder or ""))["status"] == "KILLED"
            assert max(steps_of(client, trial.run_id, METRIC)) < 8


@pytest.mark.ray
def test_a_clone_takes_weights_and_knobs_over(
    local_ray: None,
    run_of: Callable[..., TrainRun],
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Of three trials, two of which fit at once: one fails when the others have come to where they are compared."""

    class OneFails(SweepTrial):
        def step(self) -> dict[str, Any]:
            if self._planned.name != "000":
                return super().step()
            runs = Path(str(self._sweep.base.results))
            until = time.monotonic() + WAIT_SECONDS
            while len(list(runs.glob("population-0001-*/0001/checkpoints/step_*4"))) < 2 and time.monotonic() < until:
                time.sleep(0.1)
            return self._told({}, done=True, failed="as it was told to")

    monkeypatch.setattr(sweeps, "SweepTrial", OneFails)
    monkeypatch.setattr(schedulers, "PERTURBATIONS", 2)
    space = SearchSpace("population", "tiny", METRIC, "min", domains={RATE: tune.loguniform(1e-9, 0.1)})
    run = run_of(training__keep_checkpoints=20, training__picture_every=None)
    result = sweep(space, run, Options("random", "pbt", trials=3))
    assert [trial.status for trial in result.trials] == ["failed", "finished", "finished"]
    journal = Journal(result.folder)
    ((name, (segment,)),) = [(trial.name, found) for trial in result.trials if (found := journal.segments(trial.name))]
    by_name = {trial.name: trial for trial in result.trials}
    clone, donor = by_name[name], by_name[segment.donor]
    assert clone.run_id is not None
    assert donor.knobs[RATE] != clone.knobs[RATE] == segment.knobs[RATE]
    (donors,) = Path(donor.folder or "").parent.glob("[0-9]*")
    first, second = sorted(Path(clone.folder or "").parent.glob("[0-9]*"))
    assert segment.step == 4
    values = {
        folder: checkpoint_measured(folder / "checkpoints" / "step_00000004")[METRIC] for folder in (first, donors)
    }
    assert values[donors] < values[first]
    own = read_run(second / "run.yaml")
    assert (own.optim.base_learning_rate, own.init) == (segment.knobs[RATE], segment.start)
    for file in ("autoencoder.safetensors", "tats.safetensors"):
        wanted = (donors / "checkpoints" / "step_00000004" / file).read_bytes()
        assert (Path(segment.start) / file).read_bytes() == wanted
    assert [checkpoint_step(folder) for folder in checkpoints(second / "checkpoints")] == [6, 8]
    assert steps_of(client, clone.run_id, METRIC) == list(range(1, 9))
    assert client.get_metric_history(clone.run_id, "sweep/segment")[-1].value == 2
    tags = client.get_run(clone.run_id).data.tags
    assert f"from trial {segment.donor} at step 4" in tags["tats.segment.2"]
    assert "goes on from trial" in capfd.readouterr().err


def test_only_what_was_begun_can_be_resumed(run_of: Callable[..., TrainRun], swept: Swept) -> None:
    with pytest.raises(ConfigError, match="there are: rates-0001"):
        sweep(swept.space, swept.run, resume="rates-0007")
    with pytest.raises(ConfigError, match=r"optim\.weight_decay was 0\.05, is 0\.1"):
        sweep(swept.space, run_of(training__steps=4, optim__weight_decay=0.1), resume="rates-0001")
    other = SearchSpace("rates", "tiny", METRIC, "min", domains={RATE: tune.choice([GOOD])}, fixed=swept.space.fixed)
    with pytest.raises(ConfigError, match="the domains were"):
        sweep(other, swept.run, resume="rates-0001")
    judged = replace(swept.space, metric="reconstruction/loss")
    with pytest.raises(
        ConfigError, match="it was judged by min validation/random_mask_error, is by min reconstruction"
    ):
        sweep(judged, swept.run, resume="rates-0001")
