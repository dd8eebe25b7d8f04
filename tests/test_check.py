"""The check before a run: it counts what is lost, measures, and says what to change first."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tats_ray.check import SAMPLES, Check, check, first_change
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.data.listing import list_sources
from tats_ray.data.manifest import Manifest
from tats_ray.data.probe import probe_record
from tats_ray.data.synthetic import SyntheticConfig, make_videos
from tats_ray.recipes import recipe
from tats_ray.training.loop import DataLossError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tats_ray.check.MIN_SECONDS", 0.05)


@pytest.fixture
def run(tmp_path: Path) -> TrainRun:
    """A small run on six videos of 8 frames."""
    make_videos(tmp_path / "videos", SyntheticConfig(num_videos=6, frames=8, size=32))
    records = [probe_record(source, label=None) for source, _ in list_sources(tmp_path / "videos")]
    Manifest.of(records).write(tmp_path / "m.parquet")
    small = {"data.manifest": str(tmp_path / "m.parquet"), "data.num_frames": 4, "data.frame_stride": 2}
    return change(recipe("tiny"), [*small.items(), ("results", str(tmp_path / "results")), ("data.held_out", 1)])


def test_a_good_set_is_measured_and_pictured_and_nothing_is_kept(run: TrainRun, tmp_path: Path) -> None:
    found = check(run, device=CPU, sheet=tmp_path / "results" / "check.png")
    assert (found.clips, found.failures, found.held, found.frame_size) == (SAMPLES, [], 0, (32, 32))
    assert found.decode_rate > 0
    assert found.train_rate > 0
    assert found.cores_per_worker == pytest.approx(found.train_rate / found.decode_rate)
    assert [path.name for path in (tmp_path / "results").rglob("*")] == ["check.png"]


def test_what_is_lost_or_held_is_counted(run: TrainRun, tmp_path: Path) -> None:
    bad = sorted((tmp_path / "videos").glob("*.mp4"))[2]
    bad.write_bytes(b"gone")
    long = change(run, [("data.num_frames", 6), ("data.short_videos", "hold")])  # spans 11 of 8 frames
    records = Manifest.read(tmp_path / "m.parquet")
    Manifest.of([replace(records.record(n), num_frames=20 if n == 0 else 8) for n in range(6)]).write(
        tmp_path / "m.parquet"
    )
    silent = change(long, [("training.picture_every", None)])
    found = check(silent, device=CPU, sheet=tmp_path / "check.png")
    assert {path for path, _ in found.failures} <= {str(bad)}
    assert all(reason for _, reason in found.failures)
    assert found.lost_share == len(found.failures) / SAMPLES
    assert found.held in (80, 100)  # five of six videos train, each in 20 of 100 clips; the first one is long enough
    assert found.sheet is None
    assert not (tmp_path / "check.png").exists()


def test_a_set_that_is_all_lost_ends_with_the_first_reason(run: TrainRun, tmp_path: Path) -> None:
    for path in (tmp_path / "videos").glob("*.mp4"):
        path.write_bytes(b"gone")
    with pytest.raises(DataLossError, match=r"none of 100 clips could be decoded; the first is of .*\.mp4: Invalid"):
        check(run, device=CPU, sheet=tmp_path / "check.png")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"failures": [("a.mp4", "torn")] * 9}, "the files: .*--verify"),
        ({"held": 60}, "the clip: .*data.fps"),
        ({}, "nothing: "),
        ({"train_rate": 500.0}, r"--transcode DIR --short-side 128"),
        ({"train_rate": 500.0, "frame_size": (150, 128)}, "data.cache=memory"),
    ],
)
def test_the_first_change_is_what_costs_most(changes: dict, words: str) -> None:
    found = Check(
        clips=100,
        failures=[],
        held=0,
        frame_size=(640, 480),
        decode_rate=50.0,
        train_rate=90.0,
        device=CPU,
        batch=4,
        sheet=None,
    )
    run = change(recipe("tats-small"), [("data.crop_size", 112)])
    said = first_change(replace(found, **changes), run, cores=2)
    assert re.search(words, said), said
