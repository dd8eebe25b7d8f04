"""A worker's shares: the right clips, in order, whoever else there is; and what is left of a share that lost clips."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tats_ray.data import samples
from tats_ray.data.clips import Clip, ClipConfig
from tats_ray.data.decode import Crop, Decode
from tats_ray.data.guard import GuardConfig, GuardedDecoder
from tats_ray.data.loader import ShareSpec, StepShare, make_share, threaded_shares
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.data.order import samples_at
from tats_ray.data.probe import probe
from tats_ray.data.samples import Sample, load_samples
from tats_ray.data.source import DecodeError, VideoSource

NO_FILE = "No such file or directory"
CLIP = ClipConfig(num_frames=4, frame_stride=1, crop_size=32, crop_scales=(1.0,))


def record(path: Path, number: int, **facts: Any) -> VideoRecord:
    known = {"num_frames": 60, "fps": 25.0, "duration": 2.4, "width": 64, "height": 64} | facts
    return VideoRecord(id=str(number), path=str(path), label=None, truth=None, **known)  # type: ignore[arg-type]


def spec(**changes: object) -> ShareSpec:
    facts = {"clip": CLIP, "seed": 5, "steps": range(3), "global_batch": 4, "micro_batch": 4}
    return ShareSpec(**(facts | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, count_video: Callable[..., Path]) -> Manifest:
    """Five good videos, and one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    records = []
    for number in range(5):
        path = count_video(folder / f"{number}.mp4", frames=20 + number)
        records.append(record(path, number, **vars(probe(VideoSource(str(path))))))
    (folder / "broken.mp4").write_bytes(b"no video")
    return Manifest.of([*records, record(folder / "broken.mp4", 5)])


def clips_by_row(shares: Iterator[StepShare]) -> list[dict[int, torch.Tensor]]:
    """Clips by their row in the global batch, step by step."""
    return [
        {int(row): video for batch in share.batches for row, video in zip(batch.row, batch.video, strict=True)}
        for share in shares
    ]


def test_shares_of_workers_make_up_the_steps_of_one(manifest: Manifest) -> None:
    alone = clips_by_row(threaded_shares(manifest, spec(), threads=2))
    parts = [clips_by_row(threaded_shares(manifest, spec(rank=rank, world_size=2), threads=1)) for rank in range(2)]
    assert len(alone) == 3
    for step, whole in enumerate(alone):
        assert set(parts[0][step]) <= {0, 1}
        assert set(parts[1][step]) <= {2, 3}
        together = parts[0][step] | parts[1][step]
        assert together.keys() == whole.keys()
        assert all(torch.equal(together[row], video) for row, video in whole.items())


def test_clips_are_those_of_their_positions(manifest: Manifest) -> None:
    rows = samples_at(np.arange(12), parts=manifest.parts, seed=5)
    failed = []
    for step, share in enumerate(threaded_shares(manifest, spec(), threads=2)):
        clips = clips_by_row(iter([share]))[0]
        for place, row in enumerate(rows[4 * step : 4 * step + 4]):
            if row == 5:
                failed.append(step)
                assert place not in clips
                ((path, reason),) = share.failures
                assert path.endswith("broken.mp4")
                assert reason
            else:
                sample = load_samples(manifest.record(int(row)), CLIP, seed=5, position=4 * step + place)[0]
                assert sample.video is not None
                assert torch.equal(clips[place], torch.from_numpy(sample.video))
    assert len(failed) == 2  # two epochs


def test_a_resumed_worker_gets_the_steps_that_are_left(manifest: Manifest) -> None:
    whole = clips_by_row(threaded_shares(manifest, spec(), threads=1))
    rest = clips_by_row(threaded_shares(manifest, spec(steps=range(2, 3)), threads=1))
    assert rest[0].keys() == whole[2].keys()
    assert all(torch.equal(rest[0][row], whole[2][row]) for row in rest[0])


def test_views_of_one_decode_stand_side_by_side(manifest: Manifest) -> None:
    config = CLIP.model_copy(update={"views_per_decode": 2})
    samples = load_samples(manifest.record(0), config, seed=5, position=6)
    assert [sample.position for sample in samples] == [6, 7]
    shares = list(threaded_shares(manifest, spec(clip=config, steps=range(6)), threads=2))
    rows = samples_at(np.arange(12), parts=manifest.parts, seed=5)
    for step, share in enumerate(shares):
        clips = clips_by_row(iter([share]))[0]
        for place, row in enumerate(rows[2 * step : 2 * step + 2]):
            position = 4 * step + 2 * place
            for sample in load_samples(manifest.record(int(row)), config, seed=5, position=position):
                if sample.video is None:
                    assert sample.position % 4 not in clips
                else:
                    assert torch.equal(clips[sample.position % 4], torch.from_numpy(sample.video))
        lost = sum(row == 5 for row in rows[2 * step : 2 * step + 2])
        assert len(share.failures) == 2 * lost
    with pytest.raises(ValueError, match=r"views_per_decode must divide .* got 3 and 4"):
        spec(clip=CLIP.model_copy(update={"views_per_decode": 3}))


def test_a_worker_that_gets_only_bad_files_goes_on(tmp_path: Path) -> None:
    """Every step has its share, with nothing to train on and all that is missing, view by view."""
    paths = [tmp_path / f"{number}.mp4" for number in range(4)]
    for path in paths[:2]:
        path.write_bytes(b"no video")
    manifest = Manifest.of([record(path, number) for number, path in enumerate(paths)])
    config = CLIP.model_copy(update={"views_per_decode": 2})
    with GuardedDecoder(GuardConfig()) as decode:
        shares = list(threaded_shares(manifest, spec(clip=config, micro_batch=2), threads=2, decode=decode))
    rows = samples_at(np.arange(6), parts=manifest.parts, seed=5)
    for step, share in enumerate(shares):
        assert [len(batch) for batch in share.batches] == [0, 0]
        asked = [str(paths[row]) for row in rows[2 * step : 2 * step + 2] for _ in range(2)]
        assert [path for path, _ in share.failures] == asked
        for path, reason in share.failures:
            assert reason == ("Invalid data found when processing input" if Path(path).exists() else NO_FILE)
    assert len(shares) == 3


def sample(position: int, *, lost: bool = False) -> Sample:
    video = np.full((4, 32, 32, 3), position, dtype=np.uint8)
    return Sample(position, f"{position}.mp4", None if lost else video, "torn" if lost else "")


def test_micro_batches_keep_the_rows_of_their_clips() -> None:
    samples = [sample(9), sample(10, lost=True), sample(11), sample(12, lost=True), sample(13, lost=True), sample(14)]
    share = make_share(samples, spec(global_batch=8, micro_batch=2))
    assert [batch.row.tolist() for batch in share.batches] == [[1], [3], [6]]
    assert [batch.video[:, 0, 0, 0, 0].tolist() for batch in share.batches] == [[9], [11], [14]]
    assert share.failures == [("10.mp4", "torn"), ("12.mp4", "torn"), ("13.mp4", "torn")]


def test_a_micro_batch_that_lost_all_its_clips_is_empty() -> None:
    share = make_share([sample(0, lost=True), sample(1, lost=True), sample(2)], spec(micro_batch=2))
    assert [len(batch) for batch in share.batches] == [0, 1]
    assert share.batches[0].video.shape == (0, 4, 32, 32, 3)


def test_decoding_runs_a_bounded_number_of_steps_ahead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun, lock = [], threading.Lock()

    def load_clips(of: VideoRecord, config: ClipConfig, rng: np.random.Generator, *, decode: Decode) -> list[Clip]:
        with lock:
            begun.append(of.path)
        crop = Crop(x=0, y=0, width=1, height=1)
        return [Clip(np.zeros((4, 32, 32, 3), np.uint8), times=(0.0,), crop=crop, flipped=False, held=False)]

    monkeypatch.setattr(samples, "load_clips", load_clips)
    manifest = Manifest.of([record(tmp_path / f"{number}.mp4", number) for number in range(6)])
    shares = threaded_shares(manifest, spec(steps=range(100)), threads=2, steps_ahead=2)
    next(iter(shares))
    assert 4 <= len(begun) <= 4 * 3


def test_other_errors_are_not_taken_for_bad_videos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load_clips(of: VideoRecord, config: ClipConfig, rng: np.random.Generator, *, decode: Decode) -> list[Clip]:
        raise MemoryError

    monkeypatch.setattr(samples, "load_clips", load_clips)
    manifest = Manifest.of([record(tmp_path / "0.mp4", 0)])
    with pytest.raises(MemoryError):
        next(threaded_shares(manifest, spec(), threads=1))


def test_every_position_draws_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load_clips(of: VideoRecord, config: ClipConfig, rng: np.random.Generator, *, decode: Decode) -> list[Clip]:
        video = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
        return [Clip(video, times=(0.0,), crop=Crop(x=0, y=0, width=1, height=1), flipped=False, held=False)]

    monkeypatch.setattr(samples, "load_clips", load_clips)
    one = record(tmp_path / "0.mp4", 0)
    asked = [(0, 2), (0, 3), (1, 2), (0, 2)]
    drawn = [load_samples(one, CLIP, seed=seed, position=position)[0].video for seed, position in asked]
    first, *others, again = (video.tobytes() for video in drawn if video is not None)
    assert again == first
    assert len({first, *others}) == 3


def test_a_clip_that_does_not_decode_keeps_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load_clips(of: VideoRecord, config: ClipConfig, rng: np.random.Generator, *, decode: Decode) -> list[Clip]:
        raise DecodeError(of.path, "no frames")

    monkeypatch.setattr(samples, "load_clips", load_clips)
    lost = load_samples(record(tmp_path / "0.mp4", 0), CLIP, seed=0, position=3)[0]
    assert lost == Sample(3, str(tmp_path / "0.mp4"), None, "no frames")
