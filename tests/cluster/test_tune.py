"""Sweeps of tiny runs: what becomes of trials that end well, fail or are killed, and of a sweep that is interrupted."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from ray import tune

from tats_ray.cluster import tune as sweeps
from tats_ray.cluster.tune import SearchSpace, SweepResult, concurrent_trials, sweep, warm_checkpoint
from tats_ray.config.run import TrainRun
from tats_ray.run_folder import read_status

METRIC = "validation/random_mask_error"
GOOD, FAILING, KILLED = 0.05, 1e30, 0.06
"""Learning rates: one to learn with, one that no weight survives, and one whose trial's process is killed."""
WARM_UP = {"training.steps": 2}
START_SECONDS = 400
"""When to give up on a process of its own; 30 are enough for it alone."""
SCRIPT = """
import signal
import sys
from ray import tune
from tats_ray.cluster.sweep_command import main
from tats_ray.cluster.tune import SearchSpace
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
domains = {"optim.base_learning_rate": tune.grid_search([0.05, 0.06])}
fixed = {"training.steps": 100_000, "training.picture_every": 100_000}
warm_up = {"training.steps": 2}
space = SearchSpace(NAME, "tiny", "validation/random_mask_error", "min", domains, fixed=fixed, warm_up=warm_up)
sys.exit(main(space, description="A sweep that is interrupted."))
"""


@dataclass(frozen=True)
class Swept:
    """The one sweep that several tests look at."""

    space: SearchSpace
    run: TrainRun
    result: SweepResult


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def client(results: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{results / 'mlflow.db'}")


@pytest.fixture(scope="module")
def swept(
    results: Path,
    local_ray: None,
    small_run: Callable[..., TrainRun],
    write_manifest: Callable[[Path], Path],
) -> Swept:
    """Three trials from one warm checkpoint: one ends well, one fails, one loses its process."""
    knobs = {"cluster.num_workers": 1, "cluster.max_failures": 0, "training.steps": 4, "optim.max_skipped_steps": 0}
    run = small_run("base", manifest=write_manifest(results / "videos"), results=results, knobs=knobs)
    space = SearchSpace(
        name="rates",
        recipe="tiny",
        metric=METRIC,
        mode="min",
        domains={"optim.base_learning_rate": tune.grid_search([FAILING, KILLED, GOOD])},
        fixed={"optim.warmup_share": 0.0},
        warm_up=WARM_UP,
    )

    def doomed(config: dict[str, Any], **rest: Any) -> None:
        """Runs in a trial's process, where the patch ends with it."""
        from tats_ray.cluster import tune as sweeps

        def die(_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        if config["optim.base_learning_rate"] == KILLED:
            sweeps.fit_quietly = die
        sweeps._trial(config, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "_trial", doomed)
        return Swept(space, run, sweep(space, run))


def children(client: MlflowClient, parent_run_id: str) -> list[Run]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.mlflow.parentRunId = '{parent_run_id}'"))


def rate(run: Run) -> float:
    return float(run.data.params["optim.base_learning_rate"])


@pytest.mark.ray
def test_a_trial_that_fails_or_is_killed_ends_no_other(swept: Swept, client: MlflowClient) -> None:
    first, *rest = swept.result.trials
    assert (first.knobs["optim.base_learning_rate"], first.error) == (GOOD, None)
    assert first.metrics["step"] == 4
    assert {trial.knobs["optim.base_learning_rate"] for trial in rest} == {FAILING, KILLED}
    assert all(trial.error for trial in rest)
    parent = client.get_run(swept.result.handle.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["tats.folder"] == str(swept.result.table.parent)
    ended = {rate(run): run.info.status for run in children(client, parent.info.run_id)}
    assert ended == {GOOD: "FINISHED", FAILING: "FAILED", KILLED: "KILLED"}


@pytest.mark.ray
def test_why_a_trial_failed_stands_in_the_table_and_in_its_run(swept: Swept, client: MlflowClient) -> None:
    with swept.result.table.open() as file:
        rows = {float(row["optim.base_learning_rate"]): row for row in csv.DictReader(file)}
    assert rows.keys() == {GOOD, FAILING, KILLED}
    assert float(rows[GOOD][METRIC]) == next(iter(swept.result.trials)).metrics[METRIC]
    assert rows[GOOD]["error"] == ""
    (failed,) = (run for run in children(client, swept.result.handle.run_id) if rate(run) == FAILING)
    reason = failed.data.tags["tats.error"]
    assert "not finite" in reason
    assert rows[FAILING]["error"].endswith(reason)
    assert [file.path for file in client.list_artifacts(swept.result.handle.run_id, "sweep")] == ["sweep/trials.csv"]


@pytest.mark.ray
def test_the_warm_checkpoint_is_trained_once(
    swept: Swept, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = {run.data.params["init"] for run in children(client, swept.result.handle.run_id)}
    monkeypatch.setattr(sweeps, "conduct", lambda *_, **__: pytest.fail("it was trained again"))
    found = warm_checkpoint(swept.space, swept.run)
    assert {str(found)} == began
    assert found.name == f"step_{WARM_UP['training.steps']:08d}"


@pytest.mark.ray
@pytest.mark.parametrize(
    ("number", "status", "begun"),
    [
        (signal.SIGINT, 130, "{name}-0001-*/0001/checkpoints/step_*"),  # trials are being trained
        (signal.SIGTERM, 143, "{name}/0001/tune"),  # none has begun
    ],
)
def test_an_interrupted_sweep_ends_as_killed_with_all_its_trials(
    swept: Swept, client: MlflowClient, results: Path, number: signal.Signals, status: int, begun: str
) -> None:
    name = f"by-{number.name.lower()}"
    (results / "base.json").write_text(swept.run.model_dump_json())  # JSON is YAML
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace("NAME", repr(name)), "--config", results / "base.json"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        began = time.monotonic()
        while not list(results.glob(begun.format(name=name))):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() - began < START_SECONDS
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=START_SECONDS)
    assert process.returncode == status, said
    assert "Traceback" not in said
    (parent,) = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        f"tags.`tats.kind` = 'sweep' and tags.`tats.sweep` = '{name}-0001'",
    )
    assert parent.info.status == "KILLED"
    trials = children(client, parent.info.run_id)
    assert [run.info.status for run in trials] == ["KILLED"] * len(trials)
    assert [read_status(Path(run.data.tags["tats.folder"]))["status"] for run in trials] == ["KILLED"] * len(trials)
    if number == signal.SIGINT:
        assert trials


@pytest.mark.parametrize(("workers", "cpus", "trials"), [(1, 4.0, 2), (1, 2.0, 1), (3, 4.0, 1), (1, 1.0, 1)])
def test_no_more_trials_at_once_than_the_cluster_can_train(
    small_run: Callable[..., TrainRun], workers: int, cpus: float, trials: int
) -> None:
    knobs = {"cluster.num_workers": workers, "training.global_batch": 12}
    run = small_run("many", manifest=Path("/m"), results=Path("/r"), knobs=knobs)
    assert concurrent_trials(run, cpus) == trials
