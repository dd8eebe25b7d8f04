"""A real MLflow server that goes away in the middle of a run and comes back."""

import logging
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tats_ray.tracking.base import TrackingConfig
from tats_ray.tracking.mlflow import MlflowTracker, end_run, open_run, run_status

PATIENCE = 120.0  # seconds, of which a few are needed


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back_has_everything_once(
    tmp_path: Path,
    mlflow_on: Callable[..., AbstractContextManager[str]],
    free_port: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    command = [
        str(Path(sys.executable).with_name("mlflow")),
        "server",
        *("--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"),
        *("--artifacts-destination", str(tmp_path / "artifacts")),
    ]
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "a.png").write_bytes(b"picture")
    with mlflow_on(command, port=free_port) as uri:
        handle = open_run(TrackingConfig(uri=uri), results_root=tmp_path, folder=folder, params={})
        tracker = MlflowTracker(handle, retry_seconds=0.5)
        for step in range(10):
            tracker.log_metrics({"loss": float(step)}, step=step)
        wait_until(lambda: not list(folder.iterdir()))
    for step in range(10, 20):
        tracker.log_metrics({"loss": float(step)}, step=step)
    tracker.log_file(tmp_path / "a.png", folder="pictures")
    wait_until(lambda: "training goes on" in caplog.text)
    assert {path.name for path in folder.iterdir()} == {"unsent.jsonl", "unsent_files.jsonl"}
    with mlflow_on(command, port=free_port):
        wait_until(lambda: not list(folder.iterdir()))  # by itself
        tracker.close()
        end_run(handle, status="FINISHED")
        client = MlflowClient(uri)
        points = [(point.step, point.value) for point in client.get_metric_history(handle.run_id, "loss")]
        assert points == [(step, float(step)) for step in range(20)]
        assert [file.path for file in client.list_artifacts(handle.run_id, "pictures")] == ["pictures/a.png"]
        assert run_status(handle) == "FINISHED"
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def wait_until(true: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.05)
