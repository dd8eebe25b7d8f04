"""Decoding under Ray: faults of a file cost its own clips, and kept frames are those of the files."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tats_ray.cluster import train
from tats_ray.cluster.dataset import block_clips, ray_shares
from tats_ray.config.run import ClusterConfig, TrainRun
from tats_ray.data.clips import ClipConfig
from tats_ray.data.config import DataConfig
from tats_ray.data.guard import GuardConfig
from tats_ray.data.listing import list_sources
from tats_ray.data.loader import ShareSpec, StepShare, threaded_shares
from tats_ray.data.manifest import Manifest
from tats_ray.data.probe import probe_record
from tats_ray.data.synthetic import SyntheticConfig, make_videos

DATA = DataConfig(num_frames=4, frame_stride=1, crop_size=16)


@pytest.fixture
def videos(tmp_path: Path) -> Manifest:
    make_videos(tmp_path, SyntheticConfig(num_videos=6, frames=8, size=32))
    return Manifest.of([probe_record(source, label=None) for source, _ in list_sources(tmp_path)])


def spec_of(steps: range) -> ShareSpec:
    return ShareSpec(clip=DATA, seed=3, steps=steps, global_batch=4, micro_batch=4)


def assert_same(found: Iterable[StepShare], wanted: Iterable[StepShare]) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.failures == theirs.failures
        for batch, other in zip(ours.batches, theirs.batches, strict=True):
            assert torch.equal(batch.row, other.row)
            assert torch.equal(batch.video, other.video)


@pytest.mark.ray
def test_a_file_that_hangs_costs_its_own_clips(videos: Manifest, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hangs.mp4")
    stuck = replace(videos.record(0), id="stuck", path=str(tmp_path / "hangs.mp4"))
    manifest = Manifest.of([stuck, *(videos.record(number) for number in range(1, 6))])
    found = ray_shares(
        manifest, spec_of(range(3)), clips_per_block=4, decode_cpus=1, guard=GuardConfig(decode_seconds=4)
    )
    shares = list(found)
    failures = [failure for share in shares for failure in share.failures]
    assert failures == [(stuck.path, "decoding took longer than data.decode_seconds=4")] * 2  # two epochs
    assert sum(len(batch) for share in shares for batch in share.batches) == 12 - 2


def test_a_worker_that_keeps_frames_streams_what_tasks_would(videos: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(get_local_world_size=lambda: 1)
    monkeypatch.setattr(train.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(train, "ray_shares", None)
    data = DATA.model_copy(update={"cache": "memory", "cache_gib": 1.0})
    run = TrainRun.model_construct(data=data, cluster=ClusterConfig(num_workers=1, decode_cpus=2))
    with train._decoders(run, workers=1) as shares_of:
        kept = list(shares_of(videos, spec_of(range(5))))
    assert_same(kept, threaded_shares(videos, spec_of(range(5)), threads=1))


LARGE = {"CPU": 16.0, "object_store_memory": 16 * 2.0**30}


@pytest.mark.parametrize(
    ("frames", "pixels", "clips"),
    [(16, 112, 48), (16, 224, 27), (128, 224, 3), (128, 1024, 1)],  # of 0.6, 2.4, 19 and 403 MB
)
def test_a_block_is_bounded_in_clips_and_in_bytes(frames: int, pixels: int, clips: int) -> None:
    assert block_clips(ClipConfig(num_frames=frames, crop_size=pixels), [LARGE], streams=1) == clips


@pytest.mark.parametrize(
    ("others", "streams", "clips"),
    [
        ([{"CPU": 4.0, "object_store_memory": 80 * 2.0**20}], 1, 6),  # of 1.5 MiB: four tasks make 36 of 40 MiB
        ([{"CPU": 4.0, "object_store_memory": 80 * 2.0**20}], 2, 3),
        ([{"CPU": 8.0, "object_store_memory": 80 * 2.0**20}, {"CPU": 4.0, "object_store_memory": 80 * 2.0**20}], 1, 3),
        ([{"CPU": 64.0, "object_store_memory": 80 * 2.0**20}], 1, 1),
        ([{"object_store_memory": 80 * 2.0**20}, {"CPU": 0.0, "object_store_memory": 1.0}], 1, 42),  # decode nothing
    ],
)
def test_blocks_of_all_cpus_fit_into_half_of_the_smallest_store(
    others: list[dict[str, float]], streams: int, clips: int
) -> None:
    assert block_clips(ClipConfig(num_frames=128, crop_size=64), [LARGE, *others], streams=streams) == clips
