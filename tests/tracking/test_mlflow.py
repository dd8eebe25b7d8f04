import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tats_ray.tracking.base import DatasetRecord, RunHandle, TrackingConfig, TrackingError
from tats_ray.tracking.mlflow import MlflowTracker, end_run, open_run, run_status

PARAMS = {"training": {"steps": 400, "lr": 1.5e-4}, "tracking": {"uri": "http://me:secret@host"}, "name": "tats"}


BOUNDS = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", *BOUNDS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def results_root(tmp_path_factory):
    """One results root with one SQLite file, since making its tables takes seconds."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def handle(results_root):
    return open_run(TrackingConfig(), results_root=results_root, params=PARAMS)


def go_on(handle, results_root, **changes):
    arguments = {"params": PARAMS, "run_id": handle.run_id} | changes
    return open_run(TrackingConfig(), results_root=results_root, **arguments)


def client(handle) -> MlflowClient:
    return MlflowClient(handle.uri)


def history(handle, name) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client(handle).get_metric_history(handle.run_id, name)]


# The life of a run


def test_params_come_back_under_their_dotted_paths(handle):
    assert client(handle).get_run(handle.run_id).data.params == {
        "training.steps": "400",
        "training.lr": "0.00015",
        "tracking.uri": "http://host",
        "name": "tats",
    }


def test_more_params_than_one_request_takes(results_root, monkeypatch):
    send = MlflowClient.log_batch

    def log_batch(self, *args, **kwargs):
        assert len(kwargs.get("params", ())) <= 100  # a server's limit, which SQLite does not have
        return send(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    params = {f"knob_{i}": i for i in range(250)}
    handle = open_run(TrackingConfig(), results_root=results_root, params=params)
    assert client(handle).get_run(handle.run_id).data.params == {name: str(i) for name, i in params.items()}


def test_no_secret_is_recorded_anywhere(results_root):
    source = "https://me:secret@host/manifest.parquet"
    handle = open_run(
        TrackingConfig(),
        results_root=results_root,
        params=PARAMS,
        dataset=DatasetRecord(name="d", digest="0", source=source),
        tags={"store": "http://me:secret@host"},
    )
    assert "secret" not in json.dumps(client(handle).get_run(handle.run_id).to_dictionary())


def test_a_run_names_its_experiment_its_parent_and_what_made_it(results_root):
    config = TrackingConfig(experiment="sweeps", run_name="trial 3")
    parent = open_run(config, results_root=results_root, params={})
    child = open_run(config, results_root=results_root, params={}, parent_run_id=parent.run_id, tags={"sweep": "s"})
    run = client(child).get_run(child.run_id)
    assert child.experiment_id == parent.experiment_id
    assert (run.info.run_name, run.data.tags["mlflow.parentRunId"], run.data.tags["sweep"]) == (
        "trial 3",
        parent.run_id,
        "s",
    )
    assert {"version.torch", "hardware"} <= set(run.data.tags)


def test_the_manifest_is_an_input_once(handle, results_root):
    dataset = DatasetRecord(name="wild", digest="0123456789abcdef" * 4, source="/data/manifest.parquet")
    go_on(handle, results_root, dataset=dataset)
    go_on(handle, results_root, dataset=dataset)
    (entry,) = client(handle).get_run(handle.run_id).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("wild", ("0123456789abcdef" * 4)[:36])
    assert json.loads(entry.dataset.source) == {"uri": "/data/manifest.parquet"}
    assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "train")]


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_ends_as_it_ended_and_can_go_on(handle, results_root, status):
    assert run_status(handle) == "RUNNING"
    end_run(handle, status=status)
    assert run_status(handle) == status
    assert go_on(handle, results_root) == handle
    assert run_status(handle) == "RUNNING"


def test_a_run_that_goes_on_keeps_its_first_params_and_says_so(handle, results_root, caplog):
    changed = {**PARAMS, "name": "other", "new": 1}
    go_on(handle, results_root, params=changed)
    recorded = client(handle).get_run(handle.run_id).data.params
    assert (recorded["name"], recorded["new"]) == ("tats", "1")
    assert "keeps the first values of name" in caplog.text


def test_artifacts_lie_in_the_results_root_wherever_the_process_ran(handle, results_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = tmp_path / "step_120.png"
    picture.write_bytes(b"picture")
    tracker = MlflowTracker(handle)
    tracker.log_file(picture, folder="pictures/sampler")
    picture.write_bytes(b"better picture")
    tracker.log_file(picture, folder="pictures/sampler")
    (kept,) = (results_root / "mlartifacts").rglob("step_120.png")
    assert kept.read_bytes() == b"better picture"
    assert list(tmp_path.iterdir()) == [picture]


def test_a_missing_file_is_refused_at_once(handle, tmp_path):
    with pytest.raises(ValueError, match=f"existing file, got {tmp_path}/none.png"):
        MlflowTracker(handle).log_file(tmp_path / "none.png", folder="pictures")


# Steps strictly increase


def test_after_a_restart_each_metric_goes_on_above_its_last_step(handle):
    tracker = MlflowTracker(handle)
    for step in (10, 20, 30):
        tracker.log_metrics({"loss": float(step)}, step=step)
    tracker.log_metrics({"validation": 0.5}, step=20)
    tracker.close()
    restarted = MlflowTracker(handle)
    for step in (20, 30, 40):
        restarted.log_metrics({"loss": -1.0 if step <= 30 else 40.0, "validation": float(step)}, step=step)
    assert history(handle, "loss") == [(10, 10.0), (20, 20.0), (30, 30.0), (40, 40.0)]
    assert history(handle, "validation") == [(20, 0.5), (30, 30.0), (40, 40.0)]


def test_a_step_told_twice_is_kept_once(handle):
    tracker = MlflowTracker(handle)
    tracker.log_metrics({"loss": 1.0}, step=0)
    tracker.log_metrics({"loss": 2.0}, step=0)
    assert history(handle, "loss") == [(0, 1.0)]


# A store that is away


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def outage(monkeypatch):
    """While ``outage.on`` every batch fails after the store has taken it: the worst case, an answer that got lost."""
    send, send_file = MlflowClient.log_batch, MlflowClient.log_artifact

    class Outage:
        on = False
        calls = 0

    def log_batch(self, *args, **kwargs):
        Outage.calls += 1
        send(self, *args, **kwargs)
        if Outage.on:
            raise MlflowException("API request to http://me:secret@host failed")

    def log_artifact(self, *args, **kwargs):
        if Outage.on:
            raise OSError("disk full")
        send_file(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    monkeypatch.setattr(MlflowClient, "log_artifact", log_artifact)
    return Outage


def test_training_outlives_the_store_and_nothing_is_lost_or_doubled(handle, outage, caplog, tmp_path, results_root):
    (tmp_path / "during_outage.png").write_bytes(b"picture")
    clock = Clock()
    tracker = MlflowTracker(handle, clock=clock)
    outage.on, outage.calls = True, 0
    for step in range(5):
        clock.now = float(step)
        tracker.log_metrics({"loss": float(step)}, step=step)
    tracker.log_file(tmp_path / "during_outage.png", folder="pictures")
    assert outage.calls == 1  # asked once, then left in peace for 30 s
    clock.now = 31.0
    tracker.log_metrics({"loss": 5.0}, step=5)
    assert outage.calls == 2
    outage.on = False
    tracker.close()
    assert history(handle, "loss") == [(step, float(step)) for step in range(6)]
    assert len(list((results_root / "mlartifacts").rglob("during_outage.png"))) == 1
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "training goes on" in warnings[0]
    assert "secret" not in warnings[0]


def test_a_full_disk_holds_up_pictures_and_not_points(handle, monkeypatch, caplog, tmp_path):
    def log_artifact(self, *args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(MlflowClient, "log_artifact", log_artifact)
    (tmp_path / "a.png").write_bytes(b"picture")
    clock = Clock()
    tracker = MlflowTracker(handle, clock=clock)
    tracker.log_file(tmp_path / "a.png", folder="pictures")
    tracker.log_metrics({"loss": 1.0}, step=1)
    clock.now = 31.0
    tracker.log_metrics({"loss": 2.0}, step=2)
    assert history(handle, "loss") == [(1, 1.0), (2, 2.0)]
    assert "disk full" in caplog.text


def test_points_that_never_arrived_are_counted(handle, outage, caplog, monkeypatch):
    monkeypatch.setattr("tats_ray.tracking.mlflow._MAX_WAITING_POINTS", 3)
    tracker = MlflowTracker(handle, clock=Clock())
    outage.on = True
    for step in range(5):
        tracker.log_metrics({"loss": 0.0}, step=step)
    tracker.close()
    assert "lacks 5 points and files" in caplog.text


def away(uri, results_root, **arguments) -> str:
    """The message of a run that cannot be opened, and that it came in time and left no trace in the environment."""
    start = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        open_run(TrackingConfig(uri=uri), results_root=results_root, params={}, **arguments)
    assert time.monotonic() - start < 10
    assert not any(name in os.environ for name in BOUNDS)
    assert "secret" not in str(caught.value)
    return str(caught.value)


def test_a_closed_port_is_told_with_the_way_out(results_root):
    message = away("http://me:secret@127.0.0.1:9", results_root)
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
    message = away(f"http://me:secret@127.0.0.1:{server.server_port}", results_root)
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
    handle = open_run(config, results_root=results_root, params={})
    client(handle).delete_run(handle.run_id)
    with pytest.raises(TrackingError, match="was deleted; restore it, or start a new run"):
        open_run(config, results_root=results_root, params={}, run_id=handle.run_id)
    client(handle).delete_experiment(handle.experiment_id)
    with pytest.raises(TrackingError, match=r"'deleted' was deleted; restore it or set tracking\.experiment"):
        open_run(config, results_root=results_root, params={})


def test_processes_that_use_a_new_store_at_once_wait_for_each_other(tmp_path):
    """MLflow makes its tables at first use; without order all but one process fail."""
    script = (
        "import sys; from pathlib import Path; from tats_ray.tracking.base import TrackingConfig;"
        "from tats_ray.tracking.mlflow import open_run;"
        "print(open_run(TrackingConfig(), results_root=Path(sys.argv[1]), params={}).experiment_id)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    assert len({out for out, _ in ended}) == 1


def test_a_locked_database_is_told_in_one_line(handle, results_root, caplog, capfd):
    tracker = MlflowTracker(handle)
    with closing(sqlite3.connect(results_root / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        tracker.log_metrics({"reconstruction/loss": 1.0}, step=1)
        other.execute("ROLLBACK")
    (told,) = [record for record in caplog.records if record.name == "tats_ray.tracking.mlflow"]
    assert "they wait in memory and training goes on" in told.getMessage()
    assert not [record.name for record in caplog.records if record.exc_info]
    assert "Traceback" not in capfd.readouterr().err
    tracker.close()
    client = MlflowClient(handle.uri)
    assert [point.step for point in client.get_metric_history(handle.run_id, "reconstruction/loss")] == [1]


def test_an_interruption_leaves_no_transaction_open(handle, monkeypatch):
    tracker = MlflowTracker(handle)
    log_batch, interrupted = tracker._client.log_batch, threading.Event()

    def interrupted_amid(*args, **named):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        assert interrupted.wait(10)
        log_batch(*args, **named)

    monkeypatch.setattr(tracker._client, "log_batch", interrupted_amid)
    with pytest.raises(KeyboardInterrupt):
        tracker.log_metrics({"loss": 0.5}, step=1)
    interrupted.set()
    end_run(handle, status="KILLED")  # waits for the write that was under way
    assert history(handle, "loss") == [(1, 0.5)]
    assert run_status(handle) == "KILLED"
    tracker.close()
    assert history(handle, "loss") == [(1, 0.5)]
