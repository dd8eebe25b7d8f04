"""The Ray layer against the same work without Ray: equal batches, equal weights, and no worker that waits for ever."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tats_ray.cluster import train
from tats_ray.cluster.dataset import ray_shares
from tats_ray.cluster.train import check_fits, run_on_ray
from tats_ray.config.overrides import ConfigError, change
from tats_ray.config.run import ClusterConfig, TrainRun
from tats_ray.data.listing import list_sources
from tats_ray.data.loader import ShareSpec, StepShare, threaded_shares
from tats_ray.data.manifest import Manifest
from tats_ray.data.order import samples_at, split_held_out
from tats_ray.data.probe import probe_record
from tats_ray.data.synthetic import SyntheticConfig, make_videos
from tats_ray.driver import Outcome, RunFailedError, conduct
from tats_ray.recipes import recipe
from tats_ray.tracking.base import RunHandle
from tats_ray.training.context import LocalContext
from tats_ray.training.loop import DataLossError
from tats_ray.worker import Launch, run_alone

STEPS = 4
SMALL = {
    "data.num_frames": 4,
    "data.crop_size": 16,
    "data.held_out": 2,
    "model.patch_size": 4,
    "model.encoder.embed_dim": 16,
    "model.encoder.depth": 1,
    "model.encoder.num_heads": 2,
    "model.decoder.embed_dim": 16,
    "model.decoder.num_heads": 2,
    "masking.mask_ratio": 0.9,
    "masking.visible.embed_dim": 8,
    "masking.visible.switch.critic_by": 0.1,
    "masking.visible.switch.policy_by": 0.3,
    "masking.visible.ppo.rollout_steps": 2,
    "training.steps": STEPS,
    "training.global_batch": 4,
    "training.micro_batch": 2,
    "training.validate_every": 1,
    "training.picture_every": STEPS,
    "training.checkpoint_every": STEPS,
    "cluster.clips_per_block": 4,
    "cluster.max_failures": 0,
    "cluster.use_gpu": False,
    "tracking.log_every": 1,
}


def write_videos(folder: Path) -> Manifest:
    make_videos(folder, SyntheticConfig(num_videos=10, frames=8, size=32))
    return Manifest.of([probe_record(source, label=None) for source, _ in list_sources(folder)])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def run_of(manifest: Manifest, results: Path, name: str, **knobs: object) -> TrainRun:
    path = results / f"{name}.parquet"
    manifest.write(path)
    own = {"name": name, "results": str(results), "data.manifest": str(path)}
    return change(recipe("tiny"), [*SMALL.items(), *own.items(), *knobs.items()])


def spec_of(run: TrainRun, *, steps: range, rank: int = 0, world_size: int = 1) -> ShareSpec:
    return ShareSpec(
        clip=run.data, seed=3, steps=steps, global_batch=4, micro_batch=2, rank=rank, world_size=world_size
    )


def assert_same(found: Iterator[StepShare], wanted: Iterator[StepShare], *, steps: int) -> None:
    pairs = list(zip(found, wanted, strict=True))
    assert len(pairs) == steps
    for ours, theirs in pairs:
        assert ours.failures == theirs.failures
        assert len(ours.batches) == len(theirs.batches)
        for batch, other in zip(ours.batches, theirs.batches, strict=True):
            assert torch.equal(batch.row, other.row)
            assert torch.equal(batch.video, other.video)


def outcome_weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    folder = outcome.launch.folder / "checkpoints" / f"step_{STEPS:08d}"
    files = (load_file(folder / f"{name}.safetensors") for name in ("autoencoder", "tats"))
    return {f"{number}.{name}": value for number, file in enumerate(files) for name, value in file.items()}


def test_a_cluster_that_is_too_small_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"cluster.num_workers=2 .*needs 3 CPUs with one for decoding, and Ray has 2;"
    ):
        check_fits(ClusterConfig(num_workers=2), {"CPU": 2.0})
    with pytest.raises(ConfigError, match=r"cluster.cpus_per_worker=4 needs 5 CPUs"):
        check_fits(ClusterConfig(cpus_per_worker=4), {"CPU": 4.0})
    with pytest.raises(ConfigError, match="needs 2 GPUs, and Ray has 1;"):
        check_fits(ClusterConfig(num_workers=2, use_gpu=True), {"CPU": 8.0, "GPU": 1.0})


@pytest.mark.parametrize(
    ("use_gpu", "gpus", "taken"), [(None, 2.0, True), (None, 1.0, False), (None, 0.0, False), (False, 8.0, False)]
)
def test_workers_take_gpus_when_there_are_enough(use_gpu: bool | None, gpus: float, taken: bool) -> None:
    assert check_fits(ClusterConfig(num_workers=2, use_gpu=use_gpu), {"CPU": 8.0, "GPU": gpus}) is taken


def test_ctrl_c_means_what_it_says() -> None:
    with pytest.raises(KeyboardInterrupt), train._interruptible():
        raise SystemExit(0)  # as Ray Train's own handler does


@pytest.mark.ray
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 2), (1, 2)])
def test_ray_streams_what_threads_stream(
    manifest: Manifest, results: Path, monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int
) -> None:
    # Eight videos, four a step: steps 3 to 7 begin in mid-epoch and cross into the next two. The streams are cut short.
    monkeypatch.setattr("tats_ray.cluster.dataset.BLOCKS_PER_STREAM", 2)
    run = run_of(manifest, results, "shares")
    rows, _ = split_held_out(len(manifest), held_out=2, seed=0)
    spec = spec_of(run, steps=range(3, 8), rank=rank, world_size=world_size)
    found = ray_shares(manifest.select(rows), spec, clips_per_block=3, decode_cpus=1)
    assert_same(found, threaded_shares(manifest.select(rows), spec, threads=1), steps=5)


@pytest.mark.ray
def test_clips_that_fail_are_marked_and_left_out(results: Path, tmp_path: Path) -> None:
    manifest = write_videos(tmp_path)
    bad = manifest.record(4).path
    Path(bad).write_bytes(Path(bad).read_bytes()[:100])
    spec = spec_of(run_of(manifest, results, "marked"), steps=range(3))
    found = list(ray_shares(manifest, spec, clips_per_block=4, decode_cpus=None))
    assert_same(iter(found), threaded_shares(manifest, spec, threads=1), steps=3)
    failures = [failure for share in found for failure in share.failures]
    assert {path for path, _ in failures} == {bad}
    assert all(reason for _, reason in failures)
    assert sum(len(batch) for share in found for batch in share.batches) == 12 - len(failures)


@pytest.mark.ray
def test_a_run_on_ray_ends_with_the_weights_of_one_without(
    manifest: Manifest, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    alone = conduct(
        run_of(manifest, results, "alone", **{"cluster.num_workers": 0}),
        lambda launch: run_alone(launch, LocalContext(torch.device("cpu"))),
    )
    capfd.readouterr()
    on_ray = conduct(run_of(manifest, results, "on-ray"), run_on_ray)
    # One thread each, the same clips, the same draws: to the last bit.
    wanted, found = outcome_weights(alone), outcome_weights(on_ray)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())
    assert on_ray.summary == alone.summary
    said = capfd.readouterr()
    assert said.out == ""
    # The bar's plain lines and nothing of Ray's.
    assert [line for line in said.err.splitlines() if f"/{STEPS}  loss " not in line] == []


@pytest.mark.ray
def test_files_that_fail_on_one_rank_only_keep_nobody_waiting(results: Path, tmp_path: Path) -> None:
    manifest = write_videos(tmp_path)
    run = run_of(manifest, results, "one-rank", **{"cluster.num_workers": 2, "training.steps": 2})
    rows, _ = split_held_out(len(manifest), held_out=2, seed=run.seed)
    # Two steps of four clips show each of the eight videos once; the last two of each step are rank 1's.
    spec = replace(spec_of(run, steps=range(2), rank=1, world_size=2), seed=run.seed)
    train_set = manifest.select(rows)
    its_rows = samples_at(spec.positions(), num_samples=len(train_set), seed=run.seed)
    lost = {train_set.record(row).path for row in its_rows.tolist()}
    for path in lost:
        Path(path).write_bytes(Path(path).read_bytes()[:100])
    outcome = conduct(run, run_on_ray)
    assert outcome.summary["failed_clips"] == len(lost) == 4
    assert outcome.summary["step"] == 2
    assert not (outcome.launch.folder / "failed_clips.0.csv").exists()
    with (outcome.launch.folder / "failed_clips.1.csv").open() as file:
        assert {row[1] for row in csv.reader(file)} == lost


@pytest.mark.ray
def test_more_workers_than_cpus_is_said_at_once(manifest: Manifest, results: Path) -> None:
    run = run_of(manifest, results, "many", **{"cluster.num_workers": 4})
    with pytest.raises(
        RunFailedError, match=r"cluster.num_workers=4 .* needs 5 CPUs with one for decoding, and Ray has 4"
    ):
        conduct(run, run_on_ray)


@pytest.mark.ray
def test_an_error_that_another_try_would_not_mend_ends_the_run_as_it_is(
    manifest: Manifest, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InThisProcess:
        """A trainer whose one worker is the caller: Ray would see it end well, and try no more."""

        def __init__(self, launch: Launch, board: object, **_: object) -> None:
            self.fit = lambda: train._worker({"launch": launch, "board": board})

    def lose(*_: object) -> None:
        raise DataLossError("too much is lost")

    monkeypatch.setattr(train, "make_trainer", InThisProcess)
    monkeypatch.setattr(train, "RayContext", lambda board: LocalContext(torch.device("cpu")))
    monkeypatch.setattr(train, "run_training", lose)
    with pytest.raises(RunFailedError, match=r"^too much is lost$"):
        conduct(run_of(manifest, results, "lost"), run_on_ray)


@pytest.mark.ray
def test_a_worker_keeps_its_whole_traceback(manifest: Manifest, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(*_: object) -> None:
        raise RuntimeError("the pipes burst")

    monkeypatch.setattr(train, "RayContext", lambda board: LocalContext(torch.device("cpu")))
    monkeypatch.setattr(train, "run_training", burst)
    run = run_of(manifest, results, "burst")
    launch = Launch(run, results, RunHandle(uri="", run_id="", experiment_id=""))
    with pytest.raises(RuntimeError, match="the pipes burst"):
        train._worker({"launch": launch, "board": None})
    assert "the pipes burst" in (results / "error.worker_0.log").read_text()
