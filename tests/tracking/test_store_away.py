"""A real store that is locked, cut off or left by a killed process: nothing is lost, nobody waits."""

import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tats_ray.tracking.base import RunHandle, TrackingError
from tats_ray.tracking.mlflow import MlflowTracker, _RunStore, end_run, run_status, send_left_over
from tats_ray.tracking.writer import Sender

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))
client, go_on, history = (MADE[name] for name in ("client", "go_on", "history"))


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
            raise MlflowException("API request to http://me:hunter2@host failed")

    def set_terminated(self, *args, **kwargs):
        if Outage.on:
            raise MlflowException("API request to http://me:hunter2@host failed")
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
        end_run(handle, status="FAILED", reason="no disk at http://me:hunter2@host")
    ended = time.time()
    outage.on = False
    assert run_status(handle) == "RUNNING"
    assert "hunter2" not in "".join(path.read_text() for path in handle.folder.iterdir())
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
