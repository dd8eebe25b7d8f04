"""The ground truth of training clips: of the right clip, whatever the loader, and only where it is asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tats_ray.data.batches import ClipBatch
from tats_ray.data.clips import ClipConfig, load_clips
from tats_ray.data.listing import list_sources
from tats_ray.data.loader import ShareSpec, StepShare, make_share, threaded_shares
from tats_ray.data.manifest import Manifest, ManifestError
from tats_ray.data.order import CLIP, samples_at
from tats_ray.data.probe import probe_record
from tats_ray.data.samples import Sample, load_samples
from tats_ray.data.synthetic import SyntheticConfig, make_videos, require_truth, token_truth
from tats_ray.geometry import TokenGrid
from tats_ray.masking.motion import frame_difference

DATA = ClipConfig(num_frames=8, frame_stride=2, crop_size=48, flip=True, views_per_decode=2)
GRID = TokenGrid.of(num_frames=8, crop_size=48, tubelet_size=2, patch_size=8)
SPEC = ShareSpec(clip=DATA, seed=3, steps=range(3), global_batch=8, micro_batch=3, truth_grid=GRID)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("videos")
    make_videos(folder, SyntheticConfig(num_videos=5, frames=24, size=64, noise=0.0))
    return Manifest.of([probe_record(source, label=None) for source, _ in list_sources(folder)])


def batches(shares: list[StepShare]) -> list[ClipBatch]:
    return [batch for share in shares for batch in share.batches]


def test_every_clip_comes_with_the_truth_of_its_own_time_crop_and_mirroring(videos: Manifest) -> None:
    found = {}
    for step, share in enumerate(threaded_shares(videos, SPEC, threads=2)):
        for batch in share.batches:
            assert batch.truth is not None
            found |= {8 * step + int(row): truth for row, truth in zip(batch.row, batch.truth, strict=True)}
    assert sorted(found) == list(range(24))
    for position in range(0, 24, 2):
        row = int(samples_at(np.array([position // 2]), parts=videos.parts, seed=3)[0])
        record = videos.record(row)
        assert record.truth is not None
        for offset, clip in enumerate(load_clips(record, DATA, np.random.default_rng([3, CLIP, position]))):
            mover, _ = token_truth(record.truth, record, clip, GRID)
            assert np.array_equal(found[position + offset], mover)


def test_truth_lies_where_pixels_change(videos: Manifest) -> None:
    """Independent of how the truth is computed: without noise and camera, only movers change pixels."""
    for batch in batches(list(threaded_shares(videos, SPEC, threads=1))):
        assert batch.truth is not None
        for motion, mover in zip(frame_difference(batch.video, GRID), batch.truth, strict=True):
            # Frames of 64 pixels lose a little in coding; where a mover fills the tokens, far more changes.
            assert float(torch.corrcoef(torch.stack([motion, mover]))[0, 1]) > 0.6


def test_nothing_is_measured_where_nothing_asks_for_it(videos: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tats_ray.data.samples.token_truth", None)
    for batch in batches(list(threaded_shares(videos, replace(SPEC, truth_grid=None), threads=1))):
        assert batch.truth is None
        assert batch.to("cpu").truth is None
    assert [sample.truth for sample in load_samples(videos.record(0), DATA, seed=3, position=0)] == [None, None]


def test_lost_clips_leave_no_truth_behind() -> None:
    video = np.zeros((8, 48, 48, 3), np.uint8)
    told = [np.full(GRID.num_tokens, value, np.float32) for value in (0.25, 0.75)]
    samples = [Sample(0, "a", video, truth=told[0]), Sample(1, "b", None, "torn"), Sample(2, "c", video, truth=told[1])]
    lost = [Sample(position, "d", None, "torn") for position in (3, 4, 5)]
    first, second = make_share([*samples, *lost], SPEC).batches
    assert first.row.tolist() == [0, 2]
    assert first.truth is not None
    assert torch.equal(first.truth, torch.from_numpy(np.stack(told)))
    assert second.truth is not None
    assert second.truth.shape == (0, GRID.num_tokens)


@pytest.mark.parametrize("content", [None, b"no arrays", b"PK\x03\x04 torn"])
def test_truth_that_cannot_be_read_costs_its_clips(videos: Manifest, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.truth.npz"
    if content is not None:
        path.write_bytes(content)
    record = replace(videos.record(0), truth=str(path))
    for sample in load_samples(record, DATA, seed=3, position=0, truth_grid=GRID):
        assert sample.video is None
        assert sample.reason.startswith(f"its ground truth {path} cannot be read: ")
    assert load_samples(record, DATA, seed=3, position=0)[0].video is not None


def test_a_manifest_without_truth_is_refused_in_one_message(videos: Manifest, tmp_path: Path) -> None:
    require_truth(videos)
    records = [videos.record(row) for row in range(5)]
    real = Manifest.of([*records[:3], replace(records[3], truth=None), records[4]])
    with pytest.raises(
        ManifestError, match=f"which 1 of 5 videos .* the first being {records[3].path}; only synthetic"
    ):
        require_truth(real)
    gone = Manifest.of([replace(record, truth=str(tmp_path / "gone.npz")) for record in records])
    with pytest.raises(ManifestError, match="which 5 of 5 videos"):
        require_truth(gone)


@pytest.mark.parametrize("truth", [torch.zeros(2, 4), torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3)])
def test_truth_of_another_shape_or_kind_is_refused(truth: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"truth must be float32 \[3, tokens\], got"):
        ClipBatch(torch.zeros(3, 2, 4, 4, 3, dtype=torch.uint8), row=torch.arange(3), truth=truth)


def test_truth_goes_to_the_device_with_its_clips() -> None:
    batch = ClipBatch(torch.zeros(3, 2, 4, 4, 3, dtype=torch.uint8), torch.arange(3), torch.rand(3, 4))
    moved = batch.to("meta").truth
    assert moved is not None
    assert moved.device.type == "meta"
