"""What a run leaves on record, and what is refused before it begins."""

import runpy
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
from tats_ray.driver import RunFailedError, claim, conduct, prepare
from tats_ray.run_folder import read_status, write_status
from tats_ray.tracking.base import RunHandle, TrackingError
from tats_ray.worker import Launch

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))
STEPS, executor, mlflow_status, weights = (MADE[name] for name in ("STEPS", "executor", "mlflow_status", "weights"))


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


def test_results_that_cannot_be_written_are_named(run: TrainRun, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFailedError, match=rf"results={tmp_path / 'file'} cannot be written"):
        conduct(change(run, [("results", str(tmp_path / "file"))]), executor())


def test_a_file_uri_is_a_folder(run: TrainRun, tmp_path: Path) -> None:
    assert driver.results_root(change(run, [("results", f"file://{tmp_path}")])) == tmp_path


def test_what_the_launcher_cannot_run_is_refused_before_anything_is_made(run: TrainRun, results: Path) -> None:
    def check(prepared: TrainRun) -> None:
        assert prepared.results == str(results)
        raise ConfigError("no such machine")

    with pytest.raises(RunFailedError, match="no such machine"):
        conduct(run, executor(), check=check)
    assert not (results / run.name).exists()


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
