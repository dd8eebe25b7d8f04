"""Which run goes on, which starts anew, and which is refused."""

import json
import os
import runpy
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tats_ray import driver
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.data.manifest import Manifest
from tats_ray.driver import RunFailedError, conduct
from tats_ray.run_folder import read_status
from tats_ray.tracking.base import TrackingError
from tats_ray.worker import Launch

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))
executor, killed, mlflow_status = (MADE[name] for name in ("executor", "killed", "mlflow_status"))


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
