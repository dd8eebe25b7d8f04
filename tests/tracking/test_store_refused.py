"""A store that cannot be used is told, with the way out, in time."""

import os
import runpy
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tats_ray.tracking.base import RunHandle, TrackingConfig, TrackingError
from tats_ray.tracking.mlflow import end_run

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))
BOUNDS, begin, client = (MADE[name] for name in ("BOUNDS", "begin", "client"))


def away(uri, results_root, **arguments) -> str:
    """The message of a run that cannot be opened, and that it came in time and left no trace in the environment."""
    start = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        begin(results_root, config=TrackingConfig(uri=uri), **arguments)
    assert time.monotonic() - start < 10
    assert not any(name in os.environ for name in BOUNDS)
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


def test_a_closed_port_is_told_with_the_way_out(results_root):
    message = away("http://me:hunter2@127.0.0.1:9", results_root)
    assert message.startswith(
        "MLflow server http://127.0.0.1:9 does not answer: [Errno 111] Connection refused; start it"
    )
    assert "tracking.uri or MLFLOW_TRACKING_URI" in message


def test_the_reason_is_the_server_and_not_the_error_that_ended_the_run():
    handle = RunHandle(uri="http://127.0.0.1:9", run_id="0", experiment_id="0")
    with pytest.raises(TrackingError, match=r"does not answer: .*Connection refused"):  # noqa: PT012
        try:
            raise RuntimeError("the training failed")
        except RuntimeError:
            end_run(handle, status="FAILED")


@pytest.fixture
def server():
    """A server that answers every request with ``server.status`` and prose, after ``server.delay`` seconds."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            time.sleep(http.delay)
            self.send_response(http.status)
            self.end_headers()
            self.wfile.write(b"You are not authenticated.")

        def log_message(self, format, *args):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    http.status, http.delay = 200, 0.0
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    yield http
    http.shutdown()


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses_us_names_the_variables_to_set(server, results_root, status):
    server.status = status
    message = away(f"http://me:hunter2@127.0.0.1:{server.server_port}", results_root)
    assert f"refuses this client ({status})" in message
    assert "MLFLOW_TRACKING_USERNAME" in message


def test_a_server_that_is_no_mlflow(server, results_root):
    assert "answers with an error" in away(f"http://127.0.0.1:{server.server_port}", results_root)


def test_a_server_that_hangs(server, results_root):
    server.delay = 5.0
    assert "does not answer: " in away(f"http://127.0.0.1:{server.server_port}", results_root)


def test_a_folder_that_cannot_be_written(results_root):
    assert "cannot be written" in away("sqlite:////proc/none/mlflow.db", results_root)


def test_a_run_of_another_store(handle, results_root):
    message = away(handle.uri, results_root, run_id="0" * 32)
    assert message.startswith(f"MLflow run {'0' * 32} is not in sqlite:///{results_root}/mlflow.db; set tracking.uri")


def test_what_was_deleted_is_told(results_root):
    config = TrackingConfig(experiment="deleted")
    handle = begin(results_root, config=config)
    client(handle).delete_run(handle.run_id)
    with pytest.raises(TrackingError, match="was deleted; restore it, or start a new run"):
        begin(results_root, config=config, run_id=handle.run_id)
    client(handle).delete_experiment(handle.experiment_id)
    with pytest.raises(TrackingError, match=r"'deleted' was deleted; restore it or set tracking\.experiment"):
        begin(results_root, config=config)
