"""The life of a run in a real store."""

import json
import runpy
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tats_ray.tracking.base import DatasetRecord, TrackingConfig
from tats_ray.tracking.mlflow import MlflowTracker, end_run, run_status

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))
PARAMS, begin, client, go_on, history = (MADE[name] for name in ("PARAMS", "begin", "client", "go_on", "history"))


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
    source = "https://me:hunter2@host/manifest.parquet"
    handle = begin(
        results_root,
        dataset=DatasetRecord(name="d", digest="0", source=source),
        tags={"store": "http://me:hunter2@host"},
    )
    assert "hunter2" not in json.dumps(client(handle).get_run(handle.run_id).to_dictionary())


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


def test_a_handle_that_only_reads_is_refused(handle):
    with pytest.raises(ValueError, match="handle names no folder"):
        MlflowTracker(replace(handle, folder=None))


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
