"""Runs whose results lie at a URI: the folder of this machine may go at any time, and nothing is lost.

The store is pyarrow's filesystem of the disk, by a scheme that is not ``file://``: other processes see it, too.
"""

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tats_ray import claims, mirror
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.copies import MirrorError, path_of, where
from tats_ray.driver import RunFailedError, conduct
from tats_ray.probing.frozen import FrozenEncoder
from tats_ray.run_folder import alone, read_status
from tats_ray.tracking.progress import ProgressState
from tats_ray.training.context import LocalContext
from tats_ray.worker import Launch, run_alone

STEPS = 8
CPU = torch.device("cpu")
DOOMED = Path(__file__).with_name("doomed.py")


class Acting(LocalContext):
    """Does something after a step."""

    def __init__(self, act: Callable[[int], None]) -> None:
        super().__init__(CPU)
        self._act = act

    def progress(self, state: ProgressState) -> None:
        self._act(state.step)


def execute(launch: Launch) -> None:
    run_alone(launch, LocalContext(CPU))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, write_manifest: Callable[[Path], Path]) -> Path:
    return write_manifest(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TATS_COPIES", str(tmp_path / "copies"))
    monkeypatch.setattr(mirror, "WAITS", (0.0,))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "copies"


@pytest.fixture
def run(small_run: Callable[..., TrainRun], manifest: Path, tmp_path: Path, copies: Path) -> TrainRun:
    knobs = {"results": f"local://{tmp_path}/store", "tracking.uri": f"sqlite:///{tmp_path}/mlflow.db"}
    return small_run("far", manifest=manifest, results=tmp_path, knobs=knobs)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    files = sorted(checkpoint.glob("*.safetensors"))
    return {f"{file.stem}.{name}": value for file in files for name, value in load_file(file).items()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_run_killed_outright_goes_on_bit_for_bit_on_a_machine_that_never_saw_it(
    run: TrainRun, tmp_path: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = conduct(change(run, [("results", str(tmp_path / "near"))]), execute)
    (tmp_path / "run.json").write_text(run.model_dump_json())
    done = subprocess.run([sys.executable, DOOMED, tmp_path / "run.json"], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    store = tmp_path / "store" / "far" / "0001"
    assert read_status(path_of(f"local://{store}"))["status"] == "RUNNING"
    shutil.rmtree(copies)
    monkeypatch.setattr(claims, "_machine", lambda folder: "another_machine")
    monkeypatch.setattr(claims, "GONE_SECONDS", 0.3)
    again = conduct(run, execute)
    assert again.resumed_from is not None
    assert again.resumed_from.name in ("step_00000002", "step_00000004")
    assert where(again.launch.folder) == f"local://{store}"
    assert read_status(again.launch.folder)["status"] == "FINISHED"
    assert names(store / "checkpoints") == names(whole.launch.folder / "checkpoints")  # old ones go there as well
    last = f"checkpoints/step_{STEPS:08d}"
    found, wanted = weights(store / last), weights(whole.launch.folder / last)
    assert wanted
    assert [name for name, value in wanted.items() if not torch.equal(value, found[name])] == []
    assert again.summary == whole.summary
    assert {"run.yaml", "status.json", "summary.json", "ledger.json", "pictures"} <= set(names(store))
    assert f"results: local://{tmp_path}/store" in (store / "run.yaml").read_text()
    assert names(store / "pictures") == names(whole.launch.folder / "pictures")
    shutil.rmtree(copies)
    assert conduct(run, execute).launch.folder.name == "0002"  # the first is finished
    assert not list((tmp_path / "store").glob(".locks/far.lease/*"))


def test_weights_are_taken_from_a_uri(run: TrainRun, tmp_path: Path, copies: Path) -> None:
    first = conduct(run, execute)
    shutil.rmtree(copies)
    uri = f"local://{tmp_path}/store/far/0001"
    frozen = FrozenEncoder.load(path_of(uri), device=CPU)
    assert frozen.step == STEPS
    assert frozen.run.results == run.results
    shutil.rmtree(copies)
    again = conduct(change(run, [("name", "next"), ("init", uri), ("training.steps", 1)]), execute)
    assert again.launch.run.init == f"{uri}/checkpoints/step_{STEPS:08d}"
    assert where(first.launch.folder) == uri


def test_another_machine_that_trains_is_left_alone(
    run: TrainRun, monkeypatch: pytest.MonkeyPatch, copies: Path
) -> None:
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.05)
    with alone(run):
        monkeypatch.setenv("TATS_COPIES", f"{copies}_of_another")
        with pytest.raises(RunFailedError, match=r"a run of the name far is being trained in local://\S+/far by"):
            conduct(run, execute)


class Away:
    """Makes the store refuse files below a folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.below: str | None = None
        put = mirror._put

        def refuse(path: Path, files: Any, name: str) -> None:
            if self.below is not None and self.below in name:
                raise OSError("the store is away")
            put(path, files, name)

        monkeypatch.setattr(mirror, "_put", refuse)


def test_a_checkpoint_that_is_not_taken_ends_the_run_and_is_sent_by_the_next(
    run: TrainRun, tmp_path: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Away(monkeypatch)
    away.below = "step_00000004/"
    with pytest.raises(
        RunFailedError,
        match=r"step_00000004 is whole on \S+, and could not be sent: local://\S+ cannot be "
        r"written: the store is away \(tried 2 times in 0 s\); start the run again there",
    ):
        conduct(run, execute)
    store = tmp_path / "store" / "far" / "0001"
    assert names(store / "checkpoints") == ["step_00000002"]
    assert read_status(path_of(f"local://{store}"))["status"] == "FAILED"
    here = next(copies.rglob("step_00000004"))
    assert (here / "checkpoint.json").exists()
    away.below = None
    resumed = conduct(run, execute)
    assert resumed.resumed_from == here


def test_a_checkpoint_without_its_index_is_none(
    run: TrainRun, tmp_path: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Away(monkeypatch)
    away.below = "step_00000004/training.pt"
    with pytest.raises(RunFailedError, match="could not be sent"):
        conduct(run, execute)
    store = tmp_path / "store" / "far" / "0001"
    assert names(store / "checkpoints") == ["step_00000002", "step_00000004"]  # half of it has come
    away.below = None
    shutil.rmtree(copies)
    resumed = conduct(run, execute)
    assert resumed.resumed_from is not None
    assert resumed.resumed_from.name == "step_00000002"


def test_a_store_that_cannot_be_used_is_named_before_anything_starts(run: TrainRun, copies: Path) -> None:
    for results, reason in {
        "nosuch://bucket/x": r"results=nosuch:// URIs cannot be opened here \(Protocol not known: nosuch\); install",
        "s3://someone:geheim@bucket/x": r"results=s3://bucket/x was given with a password",
        "local:///proc/none": r"results=local:///proc/none does not take a file .*; see that the bucket is there",
    }.items():
        with pytest.raises(RunFailedError, match=reason) as refused:
            conduct(change(run, [("results", results)]), execute)
        assert "geheim" not in str(refused.value)
    with pytest.raises(RunFailedError, match=r"local://\S+ cannot hold MLflow's database; give tracking.uri="):
        conduct(change(run, [("tracking.uri", None)]), execute)
    assert not [path for path in copies.rglob("*") if path.is_file()]


def test_a_store_that_goes_away_leaves_the_truth_here(
    run: TrainRun, copies: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away = Away(monkeypatch)

    def go(step: int) -> None:
        if step == 3:
            away.below = "/far/"
            raise MirrorError("the store is away")

    with pytest.raises(RunFailedError, match="the store is away"):
        conduct(run, lambda launch: run_alone(launch, Acting(go)))
    assert "status.json could not be written" in caplog.text
    status = next(copies.rglob("0001/status.json"))
    assert '"status": "FAILED"' in status.read_text()
    assert uuid.UUID(read_status(status.parent)["mlflow_run_id"])
    assert read_status(status.parent)["pid"] == os.getpid()
