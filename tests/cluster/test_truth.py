"""The ground truth of training clips through Ray Data: a column where it is asked for, and none elsewhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tats_ray.cluster.dataset import ray_shares
from tats_ray.cluster.decode_task import decode_rows
from tats_ray.data.clips import ClipConfig
from tats_ray.data.guard import GuardConfig
from tats_ray.data.listing import list_sources
from tats_ray.data.loader import ShareSpec, threaded_shares
from tats_ray.data.manifest import Manifest
from tats_ray.data.probe import probe_record
from tats_ray.data.synthetic import SyntheticConfig, make_videos
from tats_ray.geometry import TokenGrid

DATA = ClipConfig(num_frames=4, frame_stride=1, crop_size=16)
GRID = TokenGrid.of(num_frames=4, crop_size=16, tubelet_size=2, patch_size=4)


@pytest.fixture
def videos(tmp_path: Path) -> Manifest:
    """Four synthetic videos, of which one does not decode."""
    make_videos(tmp_path, SyntheticConfig(num_videos=4, frames=8, size=32))
    records = [probe_record(source, label=None) for source, _ in list_sources(tmp_path)]
    (tmp_path / "torn.mp4").write_bytes(b"no video")
    return Manifest.of([*records[:3], replace(records[3], path=str(tmp_path / "torn.mp4"))])


def rows_of(videos: Manifest) -> pa.Table:
    return videos.table.append_column("position", pa.array(range(len(videos))))


def test_a_task_adds_a_column_only_where_it_is_asked_for(videos: Manifest) -> None:
    told = decode_rows(rows_of(videos), config=DATA, seed=0, guard=GuardConfig(), truth_grid=GRID)
    untold = decode_rows(rows_of(videos), config=DATA, seed=0, guard=GuardConfig())
    assert set(told) - set(untold) == {"truth"}
    assert (told["truth"].dtype, told["truth"].shape) == (np.float32, (4, GRID.num_tokens))
    assert told["failed"].tolist() == [False, False, False, True]
    assert told["truth"][:3].any(1).all()
    assert not told["truth"][3].any()
    assert all(np.array_equal(told[name], untold[name]) for name in untold)


@pytest.mark.ray
def test_truth_arrives_as_from_threads(videos: Manifest) -> None:
    spec = ShareSpec(clip=DATA, seed=3, steps=range(4), global_batch=4, micro_batch=3, truth_grid=GRID)
    found = list(ray_shares(videos, spec, clips_per_block=3, decode_cpus=1))
    wanted = list(threaded_shares(videos, spec, threads=1))
    compared = 0
    for ours, theirs in zip(found, wanted, strict=True):
        for batch, other in zip(ours.batches, theirs.batches, strict=True):
            assert batch.truth is not None
            assert other.truth is not None
            assert torch.equal(batch.row, other.row)
            assert torch.equal(batch.truth, other.truth)
            compared += len(batch)
    assert compared == 16 - 4
    for share in ray_shares(videos, replace(spec, truth_grid=None), clips_per_block=3, decode_cpus=1):
        assert all(batch.truth is None for batch in share.batches)
