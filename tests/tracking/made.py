"""Runs in a real store."""

from pathlib import Path
from tempfile import mkdtemp

from mlflow import MlflowClient

from tats_ray.tracking.base import TrackingConfig
from tats_ray.tracking.mlflow import open_run

PARAMS = {"training": {"steps": 400, "lr": 1.5e-4}, "tracking": {"uri": "http://me:hunter2@host"}, "name": "tats"}


BOUNDS = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")


def begin(results_root, *, config=None, **arguments):
    """Open a run in a folder of its own, as the driver does."""
    arguments = {"params": PARAMS, "folder": Path(mkdtemp(dir=results_root / "runs"))} | arguments
    return open_run(config or TrackingConfig(), results_root=results_root, **arguments)


def go_on(handle, results_root, **changes):
    return begin(results_root, **{"run_id": handle.run_id, "folder": handle.folder} | changes)


def client(handle) -> MlflowClient:
    return MlflowClient(handle.uri)


def history(handle, name) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client(handle).get_metric_history(handle.run_id, name)]
