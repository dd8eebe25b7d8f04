import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import mkdtemp

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tats_ray.tracking.base import DatasetRecord, RunHandle, TrackingConfig, TrackingError
from tats_ray.tracking.mlflow import MlflowTracker, _RunStore, end_run, open_run, run_status, send_left_over
from tats_ray.tracking.writer import Sender

PARAMS = {"training": {"steps": 400, "lr": 1.5e-4}, "tracking": {"uri": "http://me:secret@host"}, "name": "tats"}


BOUNDS = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", *BOUNDS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def results_root(tmp_path_factory):
    """One results root with one SQLite file, since making its tables takes seconds."""
    root = tmp_path_factory.mktemp("results")
    (root / "runs").mkdir()
    return root


def begin(results_root, *, config=None, **arguments):
    """Open a run in a folder of its own, as the driver does."""
    arguments = {"params": PARAMS, "folder": Path(mkdtemp(dir=results_root / "runs"))} | arguments
    return open_run(config or TrackingConfig(), results_root=results_root, **arguments)


@pytest.fixture
def handle(results_root):
    return begin(results_root)


def go_on(handle, results_root, **changes):
    return begin(results_root, **{"run_id": handle.run_id, "folder": handle.folder} | changes)


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
    handle = begin(results_root, params=params)
    assert client(handle).get_run(handle.run_id).data.params == {name: str(i) for name, i in params.items()}


def test_no_secret_is_recorded_anywhere(results_root):
    source = "https://me:secret@host/manifest.parquet"
    handle = begin(
        results_root,
        dataset=DatasetRecord(name="d", digest="0", source=source),
        tags={"store": "http://me:secret@host"},
    )
    assert "secret" not in json.dumps(client(handle).get_run(handle.run_id).to_dictionary())


def test_a_run_names_its_experiment_its_parent_and_what_made_it(results_root):
    config = TrackingConfig(experiment="sweeps", run_name="trial 3")
    parent = begin(results_root, config=config)
    child = begin(results_root, config=config, parent_run_id=parent.run_id, tags={"sweep": "s"})
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
    for content in (b"picture", b"better picture"):
        picture.write_bytes(content)
        tracker = MlflowTracker(handle)
        tracker.log_file(picture, folder="pictures/sampler")
        tracker.close()
    (kept,) = (results_root / "mlartifacts").rglob("step_120.png")
    assert kept.read_bytes() == b"better picture"
    assert list(tmp_path.iterdir()) == [picture]


def test_a_run_that_goes_on_is_recorded_above_its_last_steps(handle):
    for steps, value in ((range(10, 40, 10), 1.0), (range(20, 50, 10), -1.0)):
        tracker = MlflowTracker(handle)
        for step in steps:
            tracker.log_metrics({"loss": value * step}, step=step)
        tracker.close()
    assert history(handle, "loss") == [(10, 10.0), (20, 20.0), (30, 30.0), (40, -40.0)]


# A store that is away


def locked(results_root):
    """Another process's write, which holds the database until the block ends."""
    other = closing(sqlite3.connect(results_root / "mlflow.db", isolation_level=None))

    @contextmanager
    def hold():
        with other as database:
            database.execute("BEGIN EXCLUSIVE")
            yield
            database.execute("ROLLBACK")

    return hold()


def test_a_locked_database_holds_nobody_up_and_costs_no_point(handle, results_root, caplog, capfd):
    tracker = MlflowTracker(handle, retry_seconds=0.1, close_seconds=0.1)
    with locked(results_root):
        start = time.monotonic()
        for step in range(50):
            tracker.log_metrics({"loss": float(step)}, step=step)
        tracker.close()
        assert time.monotonic() - start < 5  # SQLite waits for 20 s before it gives up
    assert f"lacks what waits in {handle.folder}/unsent*.jsonl" in caplog.text
    end_run(handle, status="FINISHED")
    assert history(handle, "loss") == [(step, float(step)) for step in range(50)]
    assert not list(handle.folder.iterdir())
    assert "Traceback" not in capfd.readouterr().err


def test_a_killed_process_leaves_what_it_could_not_send_to_the_one_that_goes_on(handle, results_root):
    script = """
import os, signal, sys
from pathlib import Path
from tats_ray.tracking.base import RunHandle
from tats_ray.tracking.mlflow import MlflowTracker
uri, run_id, folder = sys.argv[1:]
tracker = MlflowTracker(RunHandle(uri=uri, run_id=run_id, experiment_id="", folder=Path(folder)))
for step in range(1, 6):
    tracker.log_metrics({"loss": float(step)}, step=step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    before = MlflowTracker(handle)
    before.log_metrics({"loss": 0.0}, step=0)
    before.close()
    with locked(results_root):
        done = subprocess.run(
            [sys.executable, "-c", script, handle.uri, handle.run_id, str(handle.folder)], check=False, timeout=120
        )
    assert done.returncode == -signal.SIGKILL
    resumed = MlflowTracker(go_on(handle, results_root))
    for step in range(3, 8):  # from the last checkpoint on
        resumed.log_metrics({"loss": -1.0 if step <= 5 else float(step)}, step=step)
    resumed.close()
    assert history(handle, "loss") == [(step, float(step)) for step in range(8)]


def test_four_processes_write_to_one_file_and_no_point_is_lost(results_root, tmp_path):
    script = """
import sys
from pathlib import Path
from tats_ray.tracking.base import TrackingConfig
from tats_ray.tracking.mlflow import MlflowTracker, end_run, open_run
results_root, folder = map(Path, sys.argv[1:])
handle = open_run(TrackingConfig(), results_root=results_root, folder=folder, params={"a": 1})
tracker = MlflowTracker(handle)
for step in range(1, 101):
    tracker.log_metrics({name: step * len(name) for name in ("a", "bb", "ccc", "dddd")}, step=step)
tracker.close()
end_run(handle, status="FINISHED")
print(handle.run_id)
"""
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()
    started = [
        subprocess.Popen([sys.executable, "-c", script, results_root, folder], stdout=subprocess.PIPE, text=True)
        for folder in folders
    ]
    run_ids = [process.communicate(timeout=300)[0].strip() for process in started]
    assert [process.returncode for process in started] == [0] * 4
    assert len(set(run_ids)) == 4
    for run_id in run_ids:
        handle = RunHandle(uri=f"sqlite:///{results_root}/mlflow.db", run_id=run_id, experiment_id="")
        assert run_status(handle) == "FINISHED"
        for name in ("a", "bb", "ccc", "dddd"):
            assert history(handle, name) == [(step, float(step * len(name))) for step in range(1, 101)]
    assert not [path for folder in folders for path in folder.iterdir()]


@pytest.fixture
def outage(monkeypatch):
    """While ``outage.on`` a batch fails after the store has taken it (its answer got lost), and an ending fails."""
    send, terminate = MlflowClient.log_batch, MlflowClient.set_terminated

    class Outage:
        on = False

    def log_batch(self, *args, **kwargs):
        send(self, *args, **kwargs)
        if Outage.on:
            raise MlflowException("API request to http://me:secret@host failed")

    def set_terminated(self, *args, **kwargs):
        if Outage.on:
            raise MlflowException("API request to http://me:secret@host failed")
        terminate(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    monkeypatch.setattr(MlflowClient, "set_terminated", set_terminated)
    return Outage


def test_the_store_knows_a_point_that_is_sent_again(handle, outage):
    outage.on = True
    tracker = MlflowTracker(handle)
    points = {"loss": 0.5, "nothing": float("nan")}
    tracker.log_metrics(points, step=1)
    tracker.close()
    outage.on = False
    sender = Sender(_RunStore(handle), handle.folder)
    sender._last_steps = {}  # as the process knew them that got no answer
    assert sender.send() is None
    assert [len(history(handle, name)) for name in points] == [1, 1]


def test_how_a_run_ended_is_told_by_the_next_run_below_the_same_results(handle, outage, results_root):
    outage.on = True
    tracker = MlflowTracker(handle)
    tracker.log_metrics({"loss": 0.5}, step=1)
    tracker.close()
    with pytest.raises(TrackingError):
        end_run(handle, status="FAILED", reason="no disk at http://me:secret@host")
    ended = time.time()
    outage.on = False
    assert run_status(handle) == "RUNNING"
    assert "secret" not in "".join(path.read_text() for path in handle.folder.iterdir())
    send_left_over(handle.uri, results_root=results_root)
    recorded = client(handle).get_run(handle.run_id)
    assert (recorded.info.status, recorded.data.tags["tats.error"]) == ("FAILED", "no disk at http://host")
    assert recorded.info.end_time <= ended * 1000
    assert history(handle, "loss") == [(1, 0.5)]
    assert not list(handle.folder.iterdir())


def test_a_run_that_goes_on_has_not_ended(handle, outage, results_root):
    outage.on = True
    with pytest.raises(TrackingError):
        end_run(handle, status="KILLED")
    outage.on = False
    go_on(handle, results_root)
    send_left_over(handle.uri, results_root=results_root)
    assert run_status(handle) == "RUNNING"


def test_what_cannot_be_sent_for_others_is_told_and_stops_nobody(handle, results_root, caplog):
    unknown, torn = (results_root / "other" / number for number in ("0001", "0002"))
    for folder in (unknown, torn):
        folder.mkdir(parents=True)
    MlflowTracker(replace(handle, run_id="0" * 32, folder=unknown)).log_metrics({"loss": 1.0}, step=1)
    (torn / "unsent_ending.json").write_text("{")
    send_left_over(handle.uri, results_root=results_root)
    assert f"MLflow does not take what waits in {unknown}/unsent*: " in caplog.text
    assert f"what waits in {torn}/unsent* cannot be read" in caplog.text
    assert (unknown / "unsent.jsonl").exists()
    shutil.rmtree(results_root / "other")


def test_a_handle_that_only_reads_is_refused(handle):
    with pytest.raises(ValueError, match="handle names no folder"):
        MlflowTracker(replace(handle, folder=None))


def away(uri, results_root, **arguments) -> str:
    """The message of a run that cannot be opened, and that it came in time and left no trace in the environment."""
    start = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        begin(results_root, config=TrackingConfig(uri=uri), **arguments)
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
    handle = begin(results_root, config=config)
    client(handle).delete_run(handle.run_id)
    with pytest.raises(TrackingError, match="was deleted; restore it, or start a new run"):
        begin(results_root, config=config, run_id=handle.run_id)
    client(handle).delete_experiment(handle.experiment_id)
    with pytest.raises(TrackingError, match=r"'deleted' was deleted; restore it or set tracking\.experiment"):
        begin(results_root, config=config)


def test_processes_that_use_a_new_store_at_once_wait_for_each_other(tmp_path):
    """MLflow makes its tables at first use; without order all but one process fail."""
    script = (
        "import sys; from pathlib import Path; from tats_ray.tracking.base import TrackingConfig;"
        "from tats_ray.tracking.mlflow import open_run; root = Path(sys.argv[1]);"
        "print(open_run(TrackingConfig(), results_root=root, folder=root, params={}).experiment_id)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    assert len({out for out, _ in ended}) == 1


def test_an_interruption_leaves_no_transaction_open(handle, monkeypatch):
    set_tag, interrupted = MlflowClient.set_tag, threading.Event()

    def interrupted_amid(self, *args):
        main = threading.main_thread().ident
        # One signal too early, before the caller waits, would be heard only when there is nothing to wait for.
        while not interrupted.wait(0.5) and sys._current_frames()[main].f_code.co_name == "wait":
            signal.pthread_kill(main, signal.SIGINT)
        assert interrupted.wait(10)
        set_tag(self, *args)

    monkeypatch.setattr(MlflowClient, "set_tag", interrupted_amid)
    with pytest.raises(KeyboardInterrupt):
        end_run(handle, status="FAILED", reason="burst pipes")
    interrupted.set()
    end_run(handle, status="KILLED")  # waits for the write that was under way
    assert client(handle).get_run(handle.run_id).data.tags["tats.error"] == "burst pipes"
    assert run_status(handle) == "KILLED"
