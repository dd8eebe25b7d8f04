"""What a Ray Data task does: decode a block of manifest rows. It imports no torch; ``data/samples.py`` says why."""

from functools import cache

import numpy as np
import pyarrow as pa

from tats_ray.data.clips import ClipConfig
from tats_ray.data.guard import GuardConfig, GuardedDecoder
from tats_ray.data.manifest import VideoRecord
from tats_ray.data.samples import Sample, load_samples
from tats_ray.data.synthetic import GridShape


def decode_rows(
    table: pa.Table, *, config: ClipConfig, seed: int, guard: GuardConfig, truth_grid: GridShape | None = None
) -> dict[str, np.ndarray]:
    """Decode one block of manifest rows; a clip that fails becomes a marked row: order and counts stay exact.

    There is a column of ground truth only with ``truth_grid``, the tokens of a clip.
    """
    samples = [sample for row in table.to_pylist() for sample in _decode(row, config, seed, guard, truth_grid)]
    shape = (config.num_frames, config.crop_size, config.crop_size, 3)
    empty = np.zeros(shape, np.uint8)  # a column has one shape
    columns = {
        "position": np.array([sample.position for sample in samples], np.int64),
        "path": np.array([sample.path for sample in samples], object),
        "reason": np.array([sample.reason for sample in samples], object),
        "failed": np.array([sample.video is None for sample in samples]),
        "short": np.array([sample.short for sample in samples]),
        "video": np.stack([empty if sample.video is None else sample.video for sample in samples]),
    }
    if truth_grid is not None:
        unknown = np.zeros(truth_grid.time * truth_grid.height * truth_grid.width, np.float32)
        columns["truth"] = np.stack([unknown if sample.truth is None else sample.truth for sample in samples])
    return columns


def _decode(row: dict, config: ClipConfig, seed: int, guard: GuardConfig, truth_grid: GridShape | None) -> list[Sample]:
    position = row.pop("position")
    return load_samples(
        VideoRecord(**row),
        config,
        seed=seed,
        position=position,
        decode=_decoder(guard.decode_seconds, guard.decode_memory_mib),
        truth_grid=truth_grid,
    )


@cache
def _decoder(seconds: float, memory_mib: int) -> GuardedDecoder:
    """Return the decoder of this process: Ray runs one task after another in it, and all use the same child."""
    return GuardedDecoder(GuardConfig(decode_seconds=seconds, decode_memory_mib=memory_mib))
