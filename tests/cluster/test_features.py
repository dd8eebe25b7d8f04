"""Extraction on Ray: the features of an extraction alone, each once, whatever becomes of the actors."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tats_ray.cluster import features
from tats_ray.cluster.features import extract_on_ray
from tats_ray.cluster.part_pool import PartActor
from tats_ray.config.error import ConfigError
from tats_ray.config.run import TrainRun
from tats_ray.data import part_files
from tats_ray.data.clips import ClipConfig
from tats_ray.data.guard import GuardConfig
from tats_ray.data.manifest import Manifest
from tats_ray.data.part_files import PartError
from tats_ray.probing.config import ExtractionConfig
from tats_ray.probing.decoding import ViewLayout
from tats_ray.probing.features import encode_part, extract_here, layout_of, plan_extraction
from tats_ray.probing.frozen import FrozenEncoder
from tats_ray.probing.parts import Extraction, read_features, read_tokens

MADE = runpy.run_path(str(Path(__file__).parents[1] / "probing" / "made.py"))
dying_once = runpy.run_path(str(Path(__file__).with_name("made.py")))["dying_once"]
LOOKS = [(1.0, "in_order", True), (0.25, "in_order", False)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small_run: Callable[..., TrainRun]) -> Any:
    return MADE["make"](tmp_path_factory.mktemp("probed"), small_run)


@pytest.fixture(scope="module")
def frozen(made: Any) -> FrozenEncoder:
    return FrozenEncoder.load(made.folder, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def manifest(made: Any) -> Manifest:
    """Nine videos, one of which is gone."""
    whole = Manifest.read(made.train)
    gone = replace(whole.record(4), path="/gone.mp4")
    return Manifest.of([gone if row == 4 else whole.record(row) for row in range(9)])


def plan(frozen: FrozenEncoder, manifest: Manifest, root: Path) -> Extraction:
    layout = layout_of(frozen, segments=2, crops=3, short_videos=None)
    return plan_extraction(frozen, manifest, layout, LOOKS, root=root, seed=0, batch=5, guard=GuardConfig())


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of two videos; what is cut where is the driver's affair."""
    monkeypatch.setattr(part_files, "PART_VIDEOS", 2)


def assert_same(found: Extraction, wanted: Extraction, manifest: Manifest) -> None:
    for ours, theirs in zip(found.readings, wanted.readings, strict=True):
        one, other = read_features(found, ours, manifest), read_features(wanted, theirs, manifest)
        assert one.video_idx.tolist() == np.repeat([0, 1, 2, 3, 5, 6, 7, 8], 6).tolist()
        assert np.array_equal(one.slots, other.slots)
        assert one.failures == other.failures
        assert [(failure.row, failure.path) for failure in one.failures] == [(4, "/gone.mp4")]
    assert np.array_equal(read_tokens(found, found.readings[0]), read_tokens(wanted, wanted.readings[0]))


@pytest.mark.ray
def test_features_are_those_of_one_process_though_an_actor_dies(
    frozen: FrozenEncoder, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "encode_part", dying_once(encode_part))
    alone, ours = plan(frozen, manifest, tmp_path / "alone"), plan(frozen, manifest, tmp_path / "ray")
    extract_here(frozen, manifest, alone)
    done: list[int] = []
    extract_on_ray(frozen, manifest, ours, config=ExtractionConfig(num_workers=2), advance=done.append)
    assert_same(ours, alone, manifest)
    assert sum(done) == 9  # none lost, none counted twice
    assert (tmp_path / "ray" / "died").exists()


@pytest.mark.ray
def test_an_extraction_on_ray_goes_on_where_one_was_stopped(
    frozen: FrozenEncoder, manifest: Manifest, tmp_path: Path
) -> None:
    alone, ours = plan(frozen, manifest, tmp_path / "alone"), plan(frozen, manifest, tmp_path / "ray")
    extract_here(frozen, manifest, alone)
    with pytest.raises(KeyboardInterrupt):
        extract_here(frozen, manifest, ours, advance=stop_after(2))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    left = [part.number for part in ours.missing()]
    assert left
    assert len(left) < 5
    done: list[int] = []
    extract_on_ray(frozen, manifest, ours, config=ExtractionConfig(), advance=done.append)
    assert_same(ours, alone, manifest)
    assert sum(done) == 9
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again: list[int] = []
    extract_on_ray(frozen, manifest, ours, config=ExtractionConfig(), advance=again.append)
    assert again == [9]


def stop_after(parts: int) -> Callable[[int], None]:
    calls = []

    def advance(videos: int) -> None:
        calls.append(videos)
        if len(calls) > parts:
            raise KeyboardInterrupt

    return advance


@pytest.mark.ray
def test_more_actors_than_cpus_are_refused(frozen: FrozenEncoder, manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster.num_workers=4 with 1 CPUs each leaves none of the 4 CPUs of this"):
        extract_on_ray(frozen, manifest, plan(frozen, manifest, tmp_path), config=ExtractionConfig(num_workers=4))
    with pytest.raises(ConfigError, match=r"cluster.use_gpu=true .* this Ray has 0"):
        extract_on_ray(frozen, manifest, plan(frozen, manifest, tmp_path), config=ExtractionConfig(use_gpu=True))


def test_what_a_decode_task_imports_is_light() -> None:
    code = "import sys, tats_ray.cluster.view_task, tats_ray.data.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_a_part_that_came_with_other_videos_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    """Features of the wrong videos would be worse than none."""
    work = Extraction(
        checkpoint=tmp_path,
        folder=tmp_path,
        layout=ViewLayout(ClipConfig(), 1, 1),
        batch=1,
        guard=GuardConfig(),
        num_videos=9,
        readings=(),
        seed=0,
    )
    actor = PartActor(
        work=work,
        parts=work.parts(),
        manifest=manifest,
        load=lambda place, *, device: None,
        encode=lambda *args: pytest.fail("it was encoded"),
        device="cpu",
    )
    ids = manifest.table["id"].to_pylist()
    with pytest.raises(PartError, match=r"^part 1 came with other videos than its 2$"):
        actor({"part": np.array([1, 1]), "id": np.array([ids[3], ids[2]], object)})
