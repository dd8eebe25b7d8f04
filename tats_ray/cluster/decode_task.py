"""What a Ray Data task does: decode a block of manifest rows. It imports no torch; ``data/samples.py`` says why."""

from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from tats_ray.data.clips import ClipConfig
from tats_ray.data.guard import GuardConfig, GuardedDecoder
from tats_ray.data.manifest import VideoRecord
from tats_ray.data.samples import CODED, load_samples, num_codes
from tats_ray.data.synthetic import GridShape


def decode_rows(
    table: pa.Table,
    *,
    config: ClipConfig,
    seed: int,
    guard: GuardConfig,
    truth_grid: GridShape | None = None,
    codes: Path | None = None,
) -> dict[str, np.ndarray]:
    """Decode one block of manifest rows; a clip that fails becomes a marked row: order and counts stay exact.

    There is a column of ground truth only with ``truth_grid``, the tokens of a clip, and there are those of a clip's
    codes only with their folder.
    """
    load = partial(
        load_samples,
        config=config,
        seed=seed,
        decode=_decoder(guard.decode_seconds, guard.decode_memory_mib),
        truth_grid=truth_grid,
        codes=codes,
    )
    rows = table.to_pylist()
    samples = [sample for row in rows for sample in load(position=row.pop("position"), record=VideoRecord(**row))]
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
    if codes is not None:
        none = {name: np.zeros(num_codes(codes, config), dtype) for name, dtype in CODED.items()}
        for name, nothing in none.items():
            columns[name] = np.stack([nothing if one.coded is None else getattr(one.coded, name) for one in samples])
    return columns


@cache
def _decoder(seconds: float, memory_mib: int) -> GuardedDecoder:
    """Return the decoder of this process: Ray runs one task after another in it, and all use the same child."""
    return GuardedDecoder(GuardConfig(decode_seconds=seconds, decode_memory_mib=memory_mib))
