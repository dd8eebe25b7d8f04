"""The Ray layer against the same work without Ray: equal batches, equal weights, and no worker that waits for ever."""

import csv
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.train import WorkerGroupError
from safetensors.torch import load_file

from tats_ray.cluster import train
from tats_ray.cluster.dataset import ray_shares
from tats_ray.cluster.train import check_cluster, check_fits, make_trainer, run_on_ray
from tats_ray.config.overrides import ConfigError
from tats_ray.config.run import ClusterConfig, TrainRun
from tats_ray.data.config import DataConfig
from tats_ray.data.loader import ShareSpec, StepShare, threaded_shares
from tats_ray.data.manifest import Manifest
from tats_ray.data.order import samples_at, split_held_out
from tats_ray.driver import Outcome, RunFailedError, conduct
from tats_ray.tracking.base import RunHandle
from tats_ray.training.context import LocalContext
from tats_ray.training.loop import DataLossError
from tats_ray.worker import Launch, run_alone

STEPS = 4
KNOBS = {
    "masking.visible.switch.policy_by": 0.3,
    "training.steps": STEPS,
    "training.micro_batch": 2,
    "training.picture_every": STEPS,
    "training.checkpoint_every": STEPS,
    "cluster.num_workers": 1,
    "cluster.clips_per_block": 4,
    "cluster.max_failures": 0,
}
RunOf = Callable[..., TrainRun]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, write_manifest: Callable[[Path], Path]) -> Manifest:
    return Manifest.read(write_manifest(tmp_path_factory.mktemp("videos")))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def run_of(results: Path, small_run: Callable[..., TrainRun]) -> RunOf:
    def make(manifest: Manifest, name: str, **knobs: object) -> TrainRun:
        path = results / f"{name}.parquet"
        manifest.write(path)
        return small_run(name, manifest=path, results=results, knobs={**KNOBS, **knobs})

    return make


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


@pytest.mark.parametrize(
    ("cluster", "nodes", "message"),
    [
        (
            ClusterConfig(num_workers=2),
            [{"CPU": 2.0}],
            r"cluster.num_workers=2 .*needs 3 CPUs with one for decoding, .* and Ray has 2;",
        ),
        (ClusterConfig(cpus_per_worker=4), [{"CPU": 4.0}], r"cluster.cpus_per_worker=4 needs 5 CPUs .* Ray has 4;"),
        # Nine CPUs in all, but no machine for a worker of six.
        (ClusterConfig(cpus_per_worker=6), [{"CPU": 5.0}, {"CPU": 4.0}], r"needs 7 CPUs .* Ray has 5 \+ 4;"),
        # Two workers of two fit, and then no machine has a whole CPU left.
        (ClusterConfig(num_workers=2, cpus_per_worker=2), [{"CPU": 2.5}, {"CPU": 2.5}], r"Ray has 2.5 \+ 2.5;"),
        (ClusterConfig(), [], r"and Ray has ;"),
        (
            ClusterConfig(num_workers=4, min_workers=2),
            [{"CPU": 2.0}],
            r"cluster.min_workers=2 .*needs 3 CPUs .* has 2;",
        ),
        (ClusterConfig(num_workers=2, use_gpu=True), [{"CPU": 8.0, "GPU": 1.0}], r"needs 2 GPUs, .* has 1 GPUs with 8"),
        # GPUs enough, but on a machine without the CPUs beside them.
        (
            ClusterConfig(num_workers=2, cpus_per_worker=4, use_gpu=True),
            [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 16.0}],
            r"needs 2 GPUs, each beside cluster.cpus_per_worker=4, .* has 2 GPUs with 4 CPUs \+ 0 GPUs with 16 CPUs",
        ),
    ],
)
def test_a_cluster_that_is_too_small_is_refused(
    cluster: ClusterConfig, nodes: list[dict[str, float]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_fits(cluster, nodes)


@pytest.mark.parametrize(
    ("use_gpu", "gpus", "taken"), [(None, 2.0, True), (None, 1.0, False), (None, 0.0, False), (False, 8.0, False)]
)
def test_workers_take_gpus_when_there_are_enough(use_gpu: bool | None, gpus: float, taken: bool) -> None:
    assert check_fits(ClusterConfig(num_workers=2, use_gpu=use_gpu), [{"CPU": 8.0, "GPU": gpus}]) is taken


def test_workers_and_decoding_may_lie_on_several_machines() -> None:
    two = ClusterConfig(num_workers=2, cpus_per_worker=2)
    assert check_fits(two, [{"CPU": 2.0}, {"CPU": 3.0}]) is False
    assert check_fits(two, [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 1.0}]) is True


def test_an_elastic_run_needs_room_for_the_fewest_workers_only() -> None:
    elastic = ClusterConfig(num_workers=4, min_workers=2, cpus_per_worker=2)
    assert check_fits(elastic, [{"CPU": 2.0}, {"CPU": 3.0}]) is False
    assert check_fits(elastic, [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 3.0, "GPU": 1.0}]) is True


@pytest.mark.ray
@pytest.mark.parametrize(("least", "workers"), [(None, 4), (2, (2, 4))])
def test_ray_is_asked_for_a_range_of_workers_where_fewer_are_enough(
    tmp_path: Path, least: int | None, workers: int | tuple[int, int]
) -> None:
    run = TrainRun.model_construct(cluster=ClusterConfig(num_workers=4, min_workers=least, max_failures=5))
    launch = Launch(run=run, folder=tmp_path, handle=RunHandle(uri="", run_id="", experiment_id="", folder=tmp_path))
    trainer = make_trainer(launch, board=None, use_gpu=False)
    assert trainer.scaling_config.num_workers == workers
    assert trainer.run_config.failure_config is not None
    assert trainer.run_config.failure_config.max_failures == 5


@pytest.mark.parametrize("least", [1, None])  # elastic, or on a cluster that has lost a machine
@pytest.mark.parametrize(("workers", "by"), [(1, "tasks"), (2, "children")])
def test_workers_that_fill_the_cluster_decode_themselves(
    monkeypatch: pytest.MonkeyPatch, workers: int, by: str, least: int | None
) -> None:
    """Tasks would wait for ever for a CPU that none of the workers gives back."""
    monkeypatch.setattr(train, "node_resources", lambda: [{"CPU": 1.0}, {"CPU": 1.5}])
    monkeypatch.setattr(train, "ray_shares", "tasks")
    monkeypatch.setattr(train, "partial", lambda function, **_: function)
    monkeypatch.setattr(train, "own_decoders", lambda run, *, threads: nullcontext("children"))
    monkeypatch.setattr(train.ray.train, "get_context", lambda: SimpleNamespace(get_local_world_size=lambda: 1))
    run = TrainRun.model_construct(data=DataConfig(), cluster=ClusterConfig(num_workers=2, min_workers=least))
    with train._decoders(run, workers=workers) as found:
        assert found == by


@pytest.mark.ray
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 2), (1, 2)])
def test_ray_streams_what_threads_stream(
    manifest: Manifest, run_of: RunOf, monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int
) -> None:
    # Eight videos, four a step: steps 3 to 7 begin in mid-epoch and cross into the next two. The streams are cut short.
    monkeypatch.setattr("tats_ray.cluster.dataset.BLOCKS_PER_STREAM", 2)
    run = run_of(manifest, "shares")
    rows, _ = split_held_out(len(manifest), held_out=2, seed=0)
    spec = spec_of(run, steps=range(3, 8), rank=rank, world_size=world_size)
    found = ray_shares(manifest.select(rows), spec, clips_per_block=3, decode_cpus=1)
    assert_same(found, threaded_shares(manifest.select(rows), spec, threads=1), steps=5)


@pytest.mark.ray
def test_clips_that_fail_are_marked_and_left_out(
    run_of: RunOf, tmp_path: Path, write_manifest: Callable[[Path], Path]
) -> None:
    manifest = Manifest.read(write_manifest(tmp_path))
    bad = manifest.record(4).path
    Path(bad).write_bytes(Path(bad).read_bytes()[:100])
    spec = spec_of(run_of(manifest, "marked"), steps=range(3))
    found = list(ray_shares(manifest, spec, clips_per_block=4, decode_cpus=None))
    assert_same(iter(found), threaded_shares(manifest, spec, threads=1), steps=3)
    failures = [failure for share in found for failure in share.failures]
    assert {path for path, _ in failures} == {bad}
    assert all(reason for _, reason in failures)
    assert sum(len(batch) for share in found for batch in share.batches) == 12 - len(failures)


@pytest.mark.ray
def test_a_run_on_ray_ends_with_the_weights_of_one_without(
    manifest: Manifest, run_of: RunOf, capfd: pytest.CaptureFixture[str]
) -> None:
    alone = conduct(
        run_of(manifest, "alone", **{"cluster.num_workers": 0}),
        lambda launch: run_alone(launch, LocalContext(torch.device("cpu"))),
    )
    capfd.readouterr()
    on_ray = conduct(run_of(manifest, "on-ray"), run_on_ray)
    # One thread each, the same clips, the same draws: to the last bit.
    wanted, found = outcome_weights(alone), outcome_weights(on_ray)
    assert wanted.keys() == found.keys()
    assert [name for name, value in wanted.items() if not torch.equal(value, found[name])] == []
    assert on_ray.summary == alone.summary
    said = capfd.readouterr()
    # The bar's plain lines and nothing of Ray's, but what it says of a machine that is slow to start processes.
    other = [line for line in (said.out + said.err).splitlines() if f"/{STEPS}  loss " not in line]
    assert [line for line in other if "worker processes have been started" not in line] == []


@pytest.mark.ray
def test_files_that_fail_on_one_rank_only_keep_nobody_waiting(
    run_of: RunOf, tmp_path: Path, write_manifest: Callable[[Path], Path]
) -> None:
    manifest = Manifest.read(write_manifest(tmp_path))
    run = run_of(manifest, "one-rank", **{"cluster.num_workers": 2, "training.steps": 2})
    rows, _ = split_held_out(len(manifest), held_out=2, seed=run.seed)
    # Two steps of four clips show each of the eight videos once; the last two of each step are rank 1's.
    spec = replace(spec_of(run, steps=range(2), rank=1, world_size=2), seed=run.seed)
    train_set = manifest.select(rows)
    its_rows = samples_at(spec.positions(), parts=train_set.parts, seed=run.seed)
    lost = {train_set.record(row).path for row in its_rows.tolist()}
    for path in lost:
        Path(path).write_bytes(Path(path).read_bytes()[:100])
    outcome = conduct(run, run_on_ray)
    assert outcome.summary["failed_clips"] == len(lost) == 4
    assert outcome.summary["step"] == 2
    with (outcome.launch.folder / "quarantine.csv").open() as file:
        assert {row["path"] for row in csv.DictReader(file)} == lost


@pytest.mark.ray
def test_a_cluster_that_cannot_train_the_run_is_told_before_anything_is_recorded(
    manifest: Manifest, results: Path, run_of: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(manifest, "many", **{"cluster.num_workers": 4})
    with pytest.raises(
        RunFailedError, match=r"cluster.num_workers=4 .* needs 5 CPUs with one for decoding, .* and Ray has 4"
    ):
        conduct(run, run_on_ray, check=check_cluster)
    assert not (results / "many").exists()
    monkeypatch.setattr(train, "machines_without", lambda folder: ["10.0.0.7"])
    run = run_of(manifest, "blind")
    with pytest.raises(RunFailedError, match=rf"results={results} is not seen by 10\.0\.0\.7, .* machines .* share"):
        conduct(run, run_on_ray, check=check_cluster)
    assert not (results / "blind").exists()


@pytest.mark.ray
def test_an_error_that_a_user_must_read_is_told_as_it_is(
    manifest: Manifest, run_of: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InThisProcess:
        """A trainer whose one worker is the caller."""

        def __init__(self, launch: Launch, board: object, **_: object) -> None:
            self._config = {"launch": launch, "board": board}

        def fit(self) -> None:
            try:
                train._worker(self._config)
            except DataLossError as error:
                raise WorkerGroupError("a worker failed", {0: error}) from error

    def lose(*_: object) -> None:
        raise DataLossError("too much is lost")

    monkeypatch.setattr(train, "make_trainer", InThisProcess)
    monkeypatch.setattr(train, "RayContext", lambda board, run: LocalContext(torch.device("cpu")))
    monkeypatch.setattr(train, "run_training", lose)
    with pytest.raises(RunFailedError, match=r"^too much is lost$"):
        conduct(run_of(manifest, "lost"), run_on_ray)


@pytest.mark.ray
def test_a_bug_ends_the_run_at_its_first_occurrence(
    manifest: Manifest, results: Path, run_of: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = results / "lives"

    def buggy(config: dict[str, Any]) -> None:
        """Runs in the worker's process, where the patches end with it."""
        from tats_ray.cluster import train
        from tats_ray.methods.masked_autoencoder import MaskedAutoencoding

        def burst(*_: object, **__: object) -> None:
            raise RuntimeError("of this model\nthe pipes burst")

        run_training = train.run_training

        def living(*arguments: object) -> None:
            with lives.open("a") as file:
                file.write("born\n")
            run_training(*arguments)  # type: ignore[arg-type]

        MaskedAutoencoding.train_step = burst  # type: ignore[method-assign]
        train.run_training = living  # type: ignore[assignment]
        train._worker(config)

    monkeypatch.setattr(train, "_worker", buggy)
    log = results / "burst" / "0001" / "error.worker_0.log"
    with pytest.raises(RunFailedError, match=rf"^RuntimeError: the pipes burst \(traceback: {log}\)$"):
        conduct(run_of(manifest, "burst", **{"cluster.max_failures": 3}), run_on_ray)
    assert lives.read_text() == "born\n"
    assert "in burst" in log.read_text()
