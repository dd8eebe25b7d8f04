"""Runs of a few steps through the driver, in this process and without Ray; all share one SQLite store."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import load_file

from tats_ray import driver, endings
from tats_ray.config.overrides import ConfigError, change
from tats_ray.config.run import TrainRun
from tats_ray.data.manifest import Manifest
from tats_ray.driver import Outcome, RunFailedError, claim, conduct, prepare
from tats_ray.endings import end_as_killed
from tats_ray.interruption import Terminated
from tats_ray.run_folder import read_status, write_status
from tats_ray.tracking.base import RunHandle, TrackingError
from tats_ray.tracking.progress import ProgressState
from tats_ray.training.context import LocalContext
from tats_ray.worker import Launch, run_alone

STEPS = 8

Execute = Callable[[Launch], None]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, write_manifest: Callable[[Path], Path]) -> Path:
    return write_manifest(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One root for all, since a fresh MLflow database takes seconds."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def run(manifest: Path, results: Path, request: pytest.FixtureRequest, small_run: Callable[..., TrainRun]) -> TrainRun:
    """A run of eight steps under the test's own name."""
    return small_run(re.sub(r"\W+", "-", request.node.name).strip("-"), manifest=manifest, results=results)


@pytest.fixture
def client(results: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{results / 'mlflow.db'}")


class Interrupted(LocalContext):
    """Does something once a step is over, before the next begins."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        super().__init__(torch.device("cpu"))
        self._step, self._act = step, act

    def progress(self, state: ProgressState) -> None:
        if state.step == self._step:
            self._act()


def executor(step: int = -1, act: Callable[[], None] = lambda: None) -> Execute:
    return lambda launch: run_alone(launch, Interrupted(step, act))


def killed(run: TrainRun, *, step: int) -> Path:
    """Interrupt a run at once after a step, by a second Ctrl-C; return its folder."""

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        conduct(run, executor(step, twice))
    assert run.results is not None
    return max((Path(run.results) / run.name).iterdir())


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    folder = outcome.launch.folder / "checkpoints" / f"step_{STEPS:08d}"
    return {
        f"{name}.{key}": value
        for name in ("autoencoder", "tats")
        for key, value in load_file(folder / f"{name}.safetensors").items()
    }


def mlflow_status(client: MlflowClient, folder: Path) -> str:
    return client.get_run(read_status(folder)["mlflow_run_id"]).info.status


def test_a_finished_run_says_so_everywhere_and_the_next_one_is_new(run: TrainRun, client: MlflowClient) -> None:
    first = conduct(run, executor())
    assert first.summary["step"] == STEPS
    assert first.summary["clips"] == STEPS * 4
    assert first.summary["sampler/policy_on_step"] <= 3
    assert first.launch.folder.name == "0001"
    assert read_status(first.launch.folder)["status"] == "FINISHED"
    assert mlflow_status(client, first.launch.folder) == "FINISHED"
    second = conduct(run, executor())
    assert (second.launch.folder.name, second.resumed_from) == ("0002", None)
    assert second.launch.handle.run_id != first.launch.handle.run_id
    # The same seed, data and machine: the same numbers, to the last bit.
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


def test_the_record_names_settings_data_and_pictures(run: TrainRun, client: MlflowClient, manifest: Path) -> None:
    outcome = conduct(run, executor())
    recorded = client.get_run(outcome.launch.handle.run_id)
    assert recorded.data.params["masking.visible.ppo.rollout_steps"] == "2"
    assert recorded.data.params["data.manifest"] == str(manifest)
    (dataset,) = recorded.inputs.dataset_inputs
    assert Manifest.read(manifest).hash.startswith(dataset.dataset.digest)
    assert len(dataset.dataset.digest) == 36
    assert recorded.data.tags["tats.folder"] == str(outcome.launch.folder)
    assert {
        "reconstruction/loss",
        "validation/random_mask_error",
        "ppo/approx_kl",
        "throughput/clips_per_second",
    } <= set(recorded.data.metrics)
    names = {f"{kind}_step_{STEPS:08d}.{suffix}" for kind in ("tokens", "reconstruction") for suffix in ("png", "gif")}
    assert {Path(file.path).name for file in client.list_artifacts(recorded.info.run_id, "pictures")} == names
    for name in names:
        with Image.open(outcome.launch.folder / "pictures" / name) as picture:
            assert getattr(picture, "n_frames", 1) == (4 if name.endswith("gif") else 1)


def test_an_exception_ends_as_failed_with_one_line_and_a_log(
    run: TrainRun, client: MlflowClient, results: Path
) -> None:
    def burst() -> None:
        raise RuntimeError("first line\nthe pipes burst")

    with pytest.raises(RunFailedError, match=r"^RuntimeError: the pipes burst \(tracebacks: \S+\)$"):
        conduct(run, executor(3, burst))
    folder = results / run.name / "0001"
    assert "Traceback" in (folder / "error.log").read_text()
    assert "the pipes burst" in (folder / "error.log").read_text()
    assert read_status(folder)["status"] == mlflow_status(client, folder) == "FAILED"
    assert conduct(run, executor()).resumed_from == folder / "checkpoints" / "step_00000002"


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
    script = """
import os, signal, sys, torch
from pathlib import Path
from tats_ray.config.run import TrainRun
from tats_ray.driver import conduct
from tats_ray.training.context import LocalContext
from tats_ray.worker import run_alone
class Doomed(LocalContext):
    def progress(self, state):
        if state.step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
torch.set_num_threads(1)
run = TrainRun.model_validate_json(Path(sys.argv[1]).read_text())
conduct(run, lambda launch: run_alone(launch, Doomed(torch.device("cpu"))))
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "run.json"], capture_output=True, check=False)
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


def test_a_run_that_trains_elsewhere_is_left_alone(run: TrainRun) -> None:
    """The lock is taken by the process that trains; a record that says RUNNING after a crash does not stop anyone."""
    refused = []

    def meanwhile(launch: Launch) -> None:
        for fresh in (False, True):
            with pytest.raises(RunFailedError, match=f"is being trained in .* by process {os.getpid()} on ") as error:
                conduct(run, executor(), fresh=fresh)
            refused.append(str(error.value))
        executor()(launch)

    assert conduct(run, meanwhile).launch.folder.name == "0001"
    assert len(refused) == 2


def test_fresh_starts_anew_and_ends_what_was_given_up(run: TrainRun, client: MlflowClient) -> None:
    folder = killed(run, step=3)
    (folder / "status.json").write_text(json.dumps(read_status(folder) | {"status": "RUNNING"}))
    client.update_run(read_status(folder)["mlflow_run_id"], status="RUNNING")
    anew = conduct(run, executor(), fresh=True)
    assert (anew.launch.folder.name, anew.resumed_from) == ("0002", None)
    assert read_status(folder)["status"] == mlflow_status(client, folder) == "KILLED"


def test_resuming_with_other_settings_is_refused_by_knob(run: TrainRun, results: Path) -> None:
    folder = killed(run, step=3)
    other = change(run, [("optim.weight_decay", 0.1), ("masking.mask_ratio", 0.5)])
    with pytest.raises(RunFailedError) as refused:
        conduct(other, executor())
    assert "masking.mask_ratio was 0.9, is 0.5; optim.weight_decay was 0.05, is 0.1" in str(refused.value)
    assert "--fresh" in str(refused.value)
    assert [path.name for path in (results / run.name).iterdir()] == [folder.name]


def test_resuming_on_other_videos_is_refused(run: TrainRun, manifest: Path, tmp_path: Path) -> None:
    killed(run, step=3)
    videos = Manifest.read(manifest)
    videos.select(range(len(videos) - 1)).write(tmp_path / "fewer.parquet")
    with pytest.raises(RunFailedError, match=r"the content of \S+fewer.parquet has changed"):
        conduct(change(run, [("data.manifest", str(tmp_path / "fewer.parquet"))]), executor())


def test_where_a_run_trains_and_is_recorded_may_change(run: TrainRun, manifest: Path, tmp_path: Path) -> None:
    folder = killed(run, step=3)
    Manifest.read(manifest).write(tmp_path / "moved.parquet")
    changes = {
        "cluster.clips_per_block": 4,
        "tracking.log_every": 2,
        "training.keep_checkpoints": 5,
        "training.keep_best": "validation/random_mask_error",
        "training.picture_every": None,
        "data.on_error": "fail",
        "data.manifest": str(tmp_path / "moved.parquet"),
    }
    assert conduct(change(run, changes.items()), executor()).launch.folder == folder


def test_a_truncated_checkpoint_is_named_and_the_way_out_works(run: TrainRun) -> None:
    folder = killed(run, step=5)
    last = folder / "checkpoints" / "step_00000004"
    whole = (last / "autoencoder.safetensors").read_bytes()
    (last / "autoencoder.safetensors").write_bytes(whole[:-1])
    with pytest.raises(RunFailedError, match=rf"{len(whole) - 1} bytes, {len(whole)} were written; remove {last} to"):
        conduct(run, executor())
    assert read_status(folder)["status"] == "KILLED"
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    assert conduct(run, executor()).resumed_from == folder / "checkpoints" / "step_00000002"


def test_results_that_cannot_be_written_are_named(run: TrainRun, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFailedError, match=rf"results={tmp_path / 'file'} cannot be written"):
        conduct(change(run, [("results", str(tmp_path / "file"))]), executor())


def test_a_file_uri_is_a_folder(run: TrainRun, tmp_path: Path) -> None:
    assert driver.results_root(change(run, [("results", f"file://{tmp_path}")])) == tmp_path


def test_a_run_that_never_began_leaves_no_number(run: TrainRun, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(driver, "open_run", _away)
        with pytest.raises(RunFailedError, match="nobody at home"):
            conduct(run, executor())
    assert list((results / run.name).iterdir()) == []
    folder = killed(run, step=3)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "open_run", _away)
        with pytest.raises(RunFailedError, match="nobody at home"):
            conduct(run, executor())
    assert list((results / run.name).iterdir()) == [folder]  # what is resumed is never removed
    assert conduct(run, executor()).launch.folder == folder


def _away(*_: object, **__: object) -> None:
    raise TrackingError("nobody at home")


def test_what_the_launcher_cannot_run_is_refused_before_anything_is_made(run: TrainRun, results: Path) -> None:
    def check(prepared: TrainRun) -> None:
        assert prepared.results == str(results)
        raise ConfigError("no such machine")

    with pytest.raises(RunFailedError, match="no such machine"):
        conduct(run, executor(), check=check)
    assert not (results / run.name).exists()


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


def test_why_a_run_failed_stands_in_its_record(run: TrainRun, client: MlflowClient, results: Path) -> None:
    def burst() -> None:
        raise RuntimeError("the pipes burst")

    with pytest.raises(RunFailedError) as failed:
        conduct(run, executor(3, burst))
    recorded = client.get_run(read_status(results / run.name / "0001")["mlflow_run_id"])
    assert recorded.data.tags["tats.error"] == str(failed.value)


def test_a_store_that_is_away_at_the_end_does_not_fail_the_run(
    run: TrainRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(handle: RunHandle, **_: object) -> None:
        raise TrackingError("nobody at home")

    monkeypatch.setattr(endings, "end_run", away)
    outcome = conduct(run, executor())
    assert read_status(outcome.launch.folder)["status"] == "FINISHED"
    assert "could not be closed as FINISHED: nobody at home" in caplog.text


def test_no_file_of_a_run_holds_a_password(run: TrainRun, manifest: Path) -> None:
    uri = "postgresql://me:hunter2@db/mlflow"
    run, _ = prepare(change(run, [("tracking.uri", uri)]))
    folder, _ = claim(run, Manifest.read(manifest), fresh=False)
    write_status(folder, "RUNNING", RunHandle(uri=uri, run_id="1", experiment_id="1"), manifest_hash="ab")
    texts = [path.read_text() for path in folder.iterdir()]
    assert len(texts) == 2
    assert not any("hunter2" in text for text in texts)
    assert any("postgresql://db/mlflow" in text for text in texts)
    launch = Launch(run, folder, RunHandle(uri=uri, run_id="1", experiment_id="1"), {"AWS_SECRET": "hunter2"})
    assert "hunter2" not in repr(launch).replace(repr(run), "")


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("data.manifest", None, "data.manifest is not set; index your videos first"),
        ("data.manifest", "/none.parquet", "no such manifest file: /none.parquet"),
        ("data.num_frames", 10, "data.num_frames=10 at data.frame_stride=1 is longer than every video .* 8 frames"),
        ("data.frame_stride", 3, "at data.frame_stride=3 is longer than every video"),
        ("init", "/none", "init=/none is neither an intact checkpoint nor the folder of a run that has one"),
        ("tracking.uri", "sqlite:///here.db", "tracking.uri must be absolute"),
    ],
)
def test_what_cannot_work_is_refused_before_a_step(run: TrainRun, knob: str, value: object, message: str) -> None:
    def never(launch: Launch) -> None:
        pytest.fail("the run began")

    with pytest.raises(RunFailedError, match=message):
        conduct(change(run, [(knob, value)]), never)


def test_frames_that_would_not_fit_are_refused_with_the_ways_out(run: TrainRun) -> None:
    run = change(run, [("data.cache", "memory"), ("data.cache_gib", 1e-5)])
    with pytest.raises(ConfigError, match=r"keep about .* GiB, .* more than data.cache_gib=1e-05; raise .*--transcode"):
        prepare(run)
    prepare(change(run, [("data.cache_gib", 1.0)]))
    prepare(change(run, [("data.cache", "none")]))


def test_a_run_starts_from_the_weights_of_another(run: TrainRun) -> None:
    first = conduct(run, executor())
    init = first.launch.folder / "checkpoints" / f"step_{STEPS:08d}"
    still = [("name", f"{run.name}-2"), ("init", str(init)), ("training.steps", 1), ("optim.warmup_share", 0.99)]
    second = conduct(change(run, still), executor())
    of_run = [("name", f"{run.name}-3"), ("init", str(first.launch.folder)), *still[2:]]
    assert conduct(change(run, of_run), executor()).launch.run.init == str(init)  # the newest of the run's folder
    began = load_file(second.launch.folder / "checkpoints" / "step_00000001" / "autoencoder.safetensors")
    # The first step of the warm-up has rate zero, so the weights are still those the run started from.
    assert all(torch.equal(value, began[name]) for name, value in load_file(init / "autoencoder.safetensors").items())
