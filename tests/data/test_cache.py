"""Kept frames give the very clips of a decode from the file, and take no more memory than they may."""

import logging
import os
import struct
import sys
import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tats_ray.data.cache import CacheConfig, CachingDecoder, frames_gib
from tats_ray.data.clips import ClipConfig
from tats_ray.data.decode import Crop, View, decode_views
from tats_ray.data.kept import FrameStore, decode_kept
from tats_ray.data.loader import ShareSpec, StepShare, threaded_shares
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.data.probe import probe_record
from tats_ray.data.source import DecodeError, VideoSource

sys.path.append(str(Path(__file__).parent))  # children get it too
import faults

CLIP = ClipConfig(num_frames=4, frame_stride=3, crop_size=32, flip=True)
MIB = 2**20


def same(found: StepShare, wanted: StepShare) -> bool:
    return found.failures == wanted.failures and all(
        torch.equal(ours.row, theirs.row) and torch.equal(ours.video, theirs.video)
        for ours, theirs in zip(found.batches, wanted.batches, strict=True)
    )


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, count_video: Callable[..., Path]) -> Manifest:
    """Files that are sought in and files that are not, one that ends too early, and a folder of frames."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [
        count_video(folder / "bframes.mp4", frames=50, options={"bf": "2"}),
        count_video(folder / "single.mkv", frames=40),
        count_video(folder / "stream.ts", frames=30),
        count_video(folder / "late.mp4", ticks=[0, 1, 2, 5, 9, 10, 11, 12, 20, 21, 22, 23]),
        count_video(folder / "torn.mp4", frames=40),
    ]
    frames = folder / "frames"
    frames.mkdir()
    for number in range(30):
        (frames / f"{number}.png").write_bytes(png(number))
    sources = [*(VideoSource(str(path)) for path in paths), VideoSource(str(frames), fps=12.5)]
    records = [probe_record(source, label=None) for source in sources]
    data = paths[-1].read_bytes()
    paths[-1].write_bytes(data[: len(data) * 3 // 5])  # the index is lost with the end
    return Manifest.of(records)


def png(number: int) -> bytes:
    """A grey picture of eight by eight."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + bytes([8 * number] * 8) for _ in range(8))
    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_kept_frames_give_the_very_clips_of_the_files(videos: Manifest) -> None:
    """Starts, crops and flips of three epochs, views and all."""
    clip = CLIP.model_copy(update={"views_per_decode": 2})
    spec = ShareSpec(clip=clip, seed=5, steps=range(9), global_batch=4, micro_batch=4)
    streamed = list(threaded_shares(videos, spec, threads=1))
    with CachingDecoder(CacheConfig(cache="memory"), processes=2) as decode:
        kept = list(threaded_shares(videos, spec, threads=2, decode=decode, route="by video"))
    assert len(kept) == len(streamed) == 9
    assert all(same(found, wanted) for found, wanted in zip(kept, streamed, strict=True))
    torn = [path for share in kept for path, _ in share.failures]
    assert len(torn) == 6  # both views of three epochs
    assert {Path(path).name for path in torn} == {"torn.mp4"}


def test_a_video_is_read_once(videos: Manifest, tmp_path: Path) -> None:
    record = moved(videos.record(0), tmp_path)
    views = [View((0.0, 0.4), Crop(0, 0, 64, 64))]
    with CachingDecoder(CacheConfig(), processes=1) as decode:
        first = decode(record.source, views, frame_size=(64, 64), size=32)
        os.remove(record.path)
        again = decode(record.source, views, frame_size=(64, 64), size=32)
    assert np.array_equal(first[0], again[0])


def moved(record: VideoRecord, folder: Path) -> VideoRecord:
    copy = folder / Path(record.path).name
    copy.write_bytes(Path(record.path).read_bytes())
    return replace(record, path=str(copy))


def test_routing_keeps_a_video_in_one_thread(videos: Manifest) -> None:
    threads: dict[str, set[int]] = {}

    def decode(source: VideoSource, views: list[View], *, frame_size: tuple[int, int], size: int) -> list[np.ndarray]:
        threads.setdefault(source.name, set()).add(threading.get_ident())
        return [np.zeros((len(view.times), size, size, 3), np.uint8) for view in views]

    # Two stretches of one file are one video to keep.
    stretch = replace(videos.record(0), id="stretch", start=0.5)
    manifest = Manifest.of([*(videos.record(index) for index in range(len(videos))), stretch])
    spec = ShareSpec(clip=CLIP, seed=5, steps=range(14), global_batch=4, micro_batch=4)
    list(threaded_shares(manifest, spec, threads=3, decode=decode, route="by video"))  # type: ignore[arg-type]
    assert len(threads) == 6
    assert all(len(found) == 1 for found in threads.values())
    assert len(set.union(*threads.values())) > 1


def test_what_has_no_room_is_decoded_anew_and_said_once(
    videos: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    views = [View((0.0, 0.4, 0.8), Crop(0, 0, 64, 64))]
    frame = 1.5 * 128 * 64  # lines of 64 pixels begin at round addresses in every plane
    config = CacheConfig(cache="memory", cache_gib=60 * frame / 2**30)  # room for the 50 frames of the first
    kept, crowded = (moved(videos.record(index), tmp_path) for index in range(2))
    with caplog.at_level(logging.WARNING), CachingDecoder(config, processes=1) as decode:
        for _ in range(3):
            for record in (kept, crowded):
                found = decode(record.source, views, frame_size=(64, 64), size=32)
                assert np.array_equal(found[0], decode_views(record.source, views, frame_size=(64, 64), size=32)[0])
        (said,) = caplog.messages
        assert "single.mkv" in said
        assert "data.cache_gib" in said
        for record in (kept, crowded):
            os.remove(record.path)
        decode(kept.source, views, frame_size=(64, 64), size=32)
        with pytest.raises(DecodeError, match="No such file"):
            decode(crowded.source, views, frame_size=(64, 64), size=32)


def test_a_store_counts_its_bytes(videos: Manifest) -> None:
    source = videos.record(0).source
    assert FrameStore(50 * 128 * 64 * 3 // 2).frames(source) is not None
    assert FrameStore(50 * 128 * 64 * 3 // 2 - 1).frames(source) is None
    with pytest.raises(DecodeError, match="No such file"):
        decode_kept(
            VideoSource("nowhere.mp4"), [View((0.0,), Crop(0, 0, 8, 8))], frame_size=(8, 8), size=8, max_bytes=1
        )


def test_the_estimate_is_what_the_frames_take(videos: Manifest) -> None:
    records = [videos.record(index) for index in range(3)]
    assert frames_gib(Manifest.of(records)) * 2**30 == (50 + 40 + 30) * 128 * 64 * 1.5
    room = 2 * MIB
    store = FrameStore(room)
    assert all(store.frames(record.source) for record in records)
    assert room - store._room == frames_gib(Manifest.of(records)) * 2**30


def test_children_that_keep_frames_get_room_for_them() -> None:
    with CachingDecoder(CacheConfig(cache_gib=8, decode_memory_mib=1024), processes=4) as decoder:
        assert decoder.call(faults.memory_limit, VideoSource("nowhere.mp4")) == (1024 + 2 * 1024 * 1.25) * MIB
