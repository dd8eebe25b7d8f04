"""A run on two manifests with weights, from the settings to its record."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.data.manifest import Manifest
from tats_ray.data.order import split_held_out
from tats_ray.driver import RunFailedError, claim, conduct, prepare
from tats_ray.training.context import LocalContext
from tats_ray.worker import run_alone


def mixed(first: Path, second: Path, weight: float) -> list[dict[str, object]]:
    return [{"path": str(first), "weight": weight}, {"path": str(second)}]


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory, write_manifest: Callable[[Path], Path]) -> tuple[Path, Path]:
    """Two manifests, of six and of four videos."""
    folder = tmp_path_factory.mktemp("videos")
    ten = Manifest.read(write_manifest(folder))
    ten.select(range(6)).write(folder / "six.parquet")
    ten.select(range(6, 10)).write(folder / "four.parquet")
    return folder / "six.parquet", folder / "four.parquet"


@pytest.fixture
def run(halves: tuple[Path, Path], tmp_path: Path, small_run: Callable[..., TrainRun]) -> TrainRun:
    return small_run("mixed", manifest=halves[0], results=tmp_path, knobs={"data.manifest": mixed(*halves, 3)})


def test_an_epoch_counts_its_places_and_the_record_names_all(run: TrainRun, halves: tuple[Path, Path]) -> None:
    epochs = change(run, [("training.steps", None), ("training.epochs", 1), ("data.held_out", 2)])
    _, manifest = prepare(epochs)
    assert [part.num_videos for part in manifest.parts] == [6, 4]
    outcome = conduct(epochs, lambda launch: run_alone(launch, LocalContext(torch.device("cpu"))))
    kept = manifest.select(sorted(set(range(10)) - set(held_out_rows(manifest, epochs)))).parts
    places = 3 * kept[0].num_videos + kept[1].num_videos
    assert outcome.summary["step"] == -(-places // epochs.training.global_batch)
    handle = outcome.launch.handle
    (dataset,) = MlflowClient(handle.uri).get_run(handle.run_id).inputs.dataset_inputs
    assert dataset.dataset.name == "six+four"
    assert all(str(path) in dataset.dataset.source for path in halves)
    assert manifest.hash.startswith(dataset.dataset.digest)


def held_out_rows(manifest: Manifest, run: TrainRun) -> list[int]:
    return split_held_out(len(manifest), held_out=run.data.held_out, seed=run.seed)[1].tolist()


def test_other_weights_are_other_videos(run: TrainRun, halves: tuple[Path, Path]) -> None:
    def stop(launch: object) -> None:
        run_alone(launch, Stopping())  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        conduct(run, stop)
    other = change(run, [("data.manifest", mixed(*halves, 2))])
    with pytest.raises(RunFailedError, match=r"the content of \S+six\.parquet, \S+four\.parquet has changed"):
        conduct(other, stop)
    prepared, manifest = prepare(run)
    assert claim(prepared, manifest, fresh=False)[1] is not None


class Stopping(LocalContext):
    """Interrupts after a few steps."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    def progress(self, state: object) -> None:
        if state.step == 4:  # type: ignore[attr-defined]
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (lambda six, four: mixed(six, six, 1), r"is in \S+six\.parquet and in \S+six\.parquet; name each video once"),
        (
            lambda six, four: mixed(six, four, 0.01),
            r"six\.parquet has \d videos to train on at weight 0\.01, .*no place",
        ),
        (lambda six, four: mixed(six, Path("/none.parquet"), 1), "no such manifest file: /none.parquet"),
    ],
)
def test_manifests_that_do_not_mix_are_refused(
    run: TrainRun, halves: tuple[Path, Path], named: Callable[..., object], message: str
) -> None:
    with pytest.raises(RunFailedError, match=re.compile(message)):
        conduct(change(run, [("data.manifest", named(*halves))]), lambda launch: None)
