"""What a Ray Data task does: decode a block of manifest rows. It imports no torch; ``data/samples.py`` says why."""

from functools import cache

import numpy as np
import pyarrow as pa

from tats_ray.data.clips import ClipConfig
from tats_ray.data.guard import GuardConfig, GuardedDecoder
from tats_ray.data.manifest import VideoRecord
from tats_ray.data.samples import Sample, load_samples


def decode_rows(table: pa.Table, *, config: ClipConfig, seed: int, guard: GuardConfig) -> dict[str, np.ndarray]:
    """Decode one block of manifest rows; a clip that fails becomes a marked row: order and counts stay exact."""
    samples = [sample for row in table.to_pylist() for sample in _decode(row, config, seed, guard)]
    shape = (config.num_frames, config.crop_size, config.crop_size, 3)
    empty = np.zeros(shape, np.uint8)  # a column has one shape
    return {
        "position": np.array([sample.position for sample in samples], np.int64),
        "path": np.array([sample.path for sample in samples], object),
        "reason": np.array([sample.reason for sample in samples], object),
        "failed": np.array([sample.video is None for sample in samples]),
        "video": np.stack([empty if sample.video is None else sample.video for sample in samples]),
    }


def _decode(row: dict, config: ClipConfig, seed: int, guard: GuardConfig) -> list[Sample]:
    position = row.pop("position")
    return load_samples(
        VideoRecord(**row),
        config,
        seed=seed,
        position=position,
        decode=_decoder(guard.decode_seconds, guard.decode_memory_mib),
    )


@cache
def _decoder(seconds: float, memory_mib: int) -> GuardedDecoder:
    """Return the decoder of this process: Ray runs one task after another in it, and all use the same child."""
    return GuardedDecoder(GuardConfig(decode_seconds=seconds, decode_memory_mib=memory_mib))
