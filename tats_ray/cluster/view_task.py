"""What Ray Data's tasks do for an evaluation: decode a part. It imports no torch; ``data/samples.py`` says why."""

from functools import cache

import numpy as np
import pyarrow as pa

from tats_ray.data.guard import GuardConfig, GuardedDecoder
from tats_ray.data.manifest import VideoRecord
from tats_ray.probing.decoding import ViewLayout, Views, decode_record


def decode_part(table: pa.Table, *, layout: ViewLayout, guard: GuardConfig) -> dict[str, np.ndarray]:
    """Decode the videos of one part, a row each; one that fails becomes a marked row: counts stay exact."""
    decode = _decoder(guard.decode_seconds, guard.decode_memory_mib)
    parts, views = table["part"], []
    for row in table.drop_columns("part").to_pylist():
        views.append(decode_record(VideoRecord(**row), layout, decode=decode))
    clip = layout.clip
    empty = np.zeros((layout.num_views, clip.num_frames, clip.crop_size, clip.crop_size, 3), np.uint8)
    return {
        "part": parts.to_numpy(),
        "id": np.array(table["id"].to_pylist(), object),
        "held": np.array([found.held for found in views]),
        "reason": np.array([found.reason for found in views], object),
        "failed": np.array([found.video is None for found in views]),
        "video": np.stack([empty if found.video is None else found.video for found in views]),
    }


def views_of(rows: dict[str, np.ndarray]) -> list[Views]:
    """Take back what :func:`decode_part` returned."""
    columns = (rows["video"], rows["held"].tolist(), rows["reason"].tolist(), rows["failed"].tolist())
    return [
        Views(None if failed else video, held=held, reason=reason)
        for video, held, reason, failed in zip(*columns, strict=True)
    ]


@cache
def _decoder(seconds: float, memory_mib: int) -> GuardedDecoder:
    """Return the decoder of this process: Ray runs one task after another in it, and all use the same child."""
    return GuardedDecoder(GuardConfig(decode_seconds=seconds, decode_memory_mib=memory_mib))
