"""Runs that are stopped, politely or not, end on record as killed and go on bit for bit."""

import json
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.driver import conduct
from tats_ray.endings import end_as_killed
from tats_ray.interruption import Terminated
from tats_ray.run_folder import read_status
from tats_ray.worker import Launch

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))
DOOMED = Path(__file__).parents[1] / "doomed.py"
STEPS, executor, killed, mlflow_status, weights = (
    MADE[name] for name in ("STEPS", "executor", "killed", "mlflow_status", "weights")
)


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated)],
)
def test_a_signal_ends_as_killed_with_a_checkpoint_of_its_step(
    run: TrainRun,
    client: MlflowClient,
    results: Path,
    number: signal.Signals,
    error: type[BaseException],
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = change(run, [("training.checkpoint_every", STEPS)])
    before = signal.getsignal(number)
    with pytest.raises(error):
        conduct(run, executor(3, lambda: signal.raise_signal(number)))
    assert "a second Ctrl-C stops at once" in capfd.readouterr().err
    folder = results / run.name / "0001"
    assert read_status(folder)["status"] == mlflow_status(client, folder) == "KILLED"
    assert signal.getsignal(number) is before
    resumed = conduct(run, executor())
    assert resumed.launch.folder == folder
    assert resumed.resumed_from is not None
    assert resumed.resumed_from.name in ("step_00000003", "step_00000004")  # two steps fill a rollout
    assert "could not be closed" not in capfd.readouterr().err


def test_a_signal_that_came_too_late_leaves_the_run_as_finished_and_has_its_effect(
    run: TrainRun, client: MlflowClient, results: Path
) -> None:
    with pytest.raises(Terminated):  # what the run is a part of ends
        conduct(run, executor(STEPS, lambda: signal.raise_signal(signal.SIGTERM)))
    folder = results / run.name / "0001"
    assert read_status(folder)["status"] == mlflow_status(client, folder) == "FINISHED"
    assert (folder / "summary.json").exists()


def test_a_stop_is_recorded_before_anybody_has_left(run: TrainRun, client: MlflowClient, results: Path) -> None:
    """Whoever stops us may kill us before we have."""
    folder = results / run.name / "0001"

    def hang() -> None:
        signal.raise_signal(signal.SIGTERM)
        until = time.monotonic() + 60
        while mlflow_status(client, folder) != "KILLED":
            assert time.monotonic() < until
            time.sleep(0.05)
        assert read_status(folder)["status"] == "KILLED"

    with pytest.raises(Terminated):
        conduct(run, executor(3, hang))


def test_a_run_killed_outright_goes_on_bit_for_bit(run: TrainRun, client: MlflowClient, tmp_path: Path) -> None:
    whole = conduct(run.model_copy(update={"name": f"{run.name}-whole"}), executor())
    (tmp_path / "run.json").write_text(run.model_dump_json())
    done = subprocess.run([sys.executable, DOOMED, tmp_path / "run.json"], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert run.results is not None
    folder = Path(run.results) / run.name / "0001"
    assert read_status(folder)["status"] == mlflow_status(client, folder) == "RUNNING"
    resumed = conduct(run, executor())
    assert resumed.launch.folder == folder
    # That of step 4 is being written while step 5 is trained: it is complete by now, or does not count.
    assert resumed.resumed_from is not None
    assert resumed.resumed_from.name in ("step_00000002", "step_00000004")
    assert read_status(folder)["status"] == mlflow_status(client, folder) == "FINISHED"
    (recorded,) = client.search_runs(["1"], f"tags.`tats.folder` = '{folder}'")
    for metric in recorded.data.metrics:
        steps = [point.step for point in client.get_metric_history(recorded.info.run_id, metric)]
        assert steps == sorted(set(steps)), metric
    losses = client.get_metric_history(recorded.info.run_id, "reconstruction/loss")
    assert [point.step for point in losses] == list(range(1, STEPS + 1))
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    assert {**resumed.summary} == {**whole.summary}


def test_a_run_whose_process_is_gone_is_ended_as_killed(run: TrainRun, client: MlflowClient) -> None:
    folder = killed(run, step=3)
    finished = conduct(run.model_copy(update={"name": f"{run.name}-2"}), executor()).launch.folder
    for path in (folder, finished):
        client.update_run(read_status(path)["mlflow_run_id"], status="RUNNING")
    (folder / "status.json").write_text(json.dumps(read_status(folder) | {"status": "RUNNING"}))
    end_as_killed(run, [folder, finished], patience=0)
    assert read_status(folder)["status"] == mlflow_status(client, folder) == "KILLED"
    assert read_status(finished)["status"] == "FINISHED"


def test_a_process_that_is_going_yet_is_awaited(run: TrainRun) -> None:
    folder = killed(run, step=3)
    (folder / "status.json").write_text(json.dumps(read_status(folder) | {"status": "RUNNING"}))
    waited = []

    def going(launch: Launch) -> None:
        """Still holds the name, and writes an ending of its own after we began to wait."""
        thread = threading.Thread(target=lambda: waited.append(end_as_killed(run, [folder], patience=60)))
        thread.start()
        executor()(launch)
        assert not waited
        threads.append(thread)

    threads: list[threading.Thread] = []
    conduct(run, going)
    threads[0].join()
    assert read_status(folder)["status"] == "FINISHED"
