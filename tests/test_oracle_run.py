"""A run that draws by ground truth: it trains on synthetic videos, and is refused on others before it starts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tats_ray.check import check
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.data.manifest import Manifest, ManifestError
from tats_ray.driver import conduct, prepare
from tats_ray.training.context import LocalContext
from tats_ray.worker import run_alone

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path, write_manifest: Callable[[Path], Path], small_run: Callable[..., TrainRun]) -> TrainRun:
    manifest = write_manifest(tmp_path / "videos")
    knobs = {"masking.visible.kind": "oracle", "masking.visible.lift": 1.5, "training.steps": 2}
    return change(small_run("oracle", manifest=manifest, results=tmp_path / "results"), knobs.items())


def test_a_run_draws_by_the_truth_of_its_clips(run: TrainRun) -> None:
    outcome = conduct(run, lambda launch: run_alone(launch, LocalContext(CPU)))
    assert outcome.summary["step"] == 2.0
    assert outcome.summary["sampler/mover_lift"] == pytest.approx(1.5, rel=0.05)  # where movers leave room for it


def test_videos_without_truth_are_refused_before_anything_starts(run: TrainRun) -> None:
    assert run.data.manifest is not None
    path = run.data.manifest[0].path
    manifest = Manifest.read(path)
    Manifest.of([replace(manifest.record(row), truth=None) for row in range(len(manifest))]).write(path)
    with pytest.raises(ManifestError, match=r"kind=oracle draws by ground truth, which 10 of 10 videos"):
        prepare(run)


def test_the_look_before_a_run_works(run: TrainRun, tmp_path: Path) -> None:
    assert check(run, device=CPU, sheet=tmp_path / "sheet.png").train_rate > 0
