"""The same videos by number, wherever they are named, and only good ones come back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tats_ray.config.run import TrainRun
from tats_ray.data.clips import ClipConfig, load_center_clip
from tats_ray.data.guard import GuardConfig, GuardedDecoder
from tats_ray.data.manifest import Manifest, ManifestError
from tats_ray.data.order import split_held_out
from tats_ray.data.source import DecodeError
from tats_ray.viewing.gallery import Gallery, load_middles, spread

CLIP = ClipConfig(num_frames=4, frame_stride=1, crop_size=16)
LARGER = CLIP.model_copy(update={"crop_size": 24})


@pytest.fixture(scope="module")
def manifest(write_manifest: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("videos"))


def test_a_folder_and_its_manifest_hold_the_same_videos(manifest: Path) -> None:
    known = Manifest.read(manifest)
    with GuardedDecoder(GuardConfig()) as decode:
        for source in (str(manifest), str(manifest.parent)):
            gallery = Gallery.of(source)
            assert len(gallery) == 10
            assert [gallery.record(number, decode) for number in (0, 7)] == [known.record(0), known.record(7)]
        assert Gallery.of(known.record(3).path).record(0, decode) == known.record(3)


def test_a_runs_held_out_videos_are_the_ones_that_it_holds_out(
    manifest: Path, small_run: Callable[..., TrainRun], tmp_path: Path
) -> None:
    run = small_run("held", manifest=manifest, results=tmp_path, knobs={"seed": 3})
    known = Manifest.read(manifest)
    _, rows = split_held_out(10, held_out=2, seed=3)
    gallery = Gallery.held_out(run)
    with GuardedDecoder(GuardConfig()) as decode:
        records = [gallery.record(number, decode) for number in range(len(gallery))]
    assert records == [known.record(int(row)) for row in rows]
    assert len(records) == 2
    with pytest.raises(ValueError, match=r"the run held has no data\.manifest; name a video or a folder"):
        Gallery.held_out(run.model_copy(update={"data": run.data.model_copy(update={"manifest": None})}))


def test_no_videos(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such folder, list or video"):
        Gallery.of(str(tmp_path / "none"))
    with pytest.raises(ManifestError, match="no such manifest file"):
        Gallery.of(str(tmp_path / "none.parquet"))


def test_what_does_not_decode_is_left_out_and_named(manifest: Path, tmp_path: Path) -> None:
    for number in (0, 4):
        (tmp_path / f"good_{number}.mp4").write_bytes(Path(Manifest.read(manifest).record(number).path).read_bytes())
    (tmp_path / "bad.mp4").write_text("no video")
    gallery = Gallery.of(str(tmp_path))  # in alphabetical order: bad, good_0, good_4
    with GuardedDecoder(GuardConfig()) as decode:
        middles, failures = load_middles(gallery, [2, 0, 1], [CLIP, LARGER], decode)
        records = {number: gallery.record(number, decode) for number in (2, 1)}
        with pytest.raises(DecodeError):
            gallery.record(0, decode)
    assert [failure.path for failure in failures] == [str(tmp_path / "bad.mp4")]
    assert list(middles) == [2, 1]
    for number, middle in middles.items():
        assert middle.record == records[number]
        for config, video in zip((CLIP, LARGER), middle.clips, strict=True):
            np.testing.assert_array_equal(video, load_center_clip(records[number], config).video)


def test_numbers_are_spread_evenly() -> None:
    assert spread(10, count=3, without=0) == [1, 5, 9]
    assert spread(5, count=9, without=2) == [0, 1, 3, 4]
    assert spread(1, count=9, without=0) == []
    for without in range(50):
        chosen = spread(50, count=20, without=without)
        assert len(set(chosen)) == 20
        assert without not in chosen
        assert max(np.diff(chosen)) <= 4  # 49 / 19 apart, and one more where a number is left out
