"""The clips at some positions of a run, or why they are missing.

This is what decoding processes import: neither it nor what it needs imports torch, which would take seconds to load and
hundreds of MiB in each of them.
"""

import zipfile
from dataclasses import dataclass

import numpy as np

from tats_ray.data.clips import Clip, ClipConfig, load_clips
from tats_ray.data.decode import Decode, decode_views
from tats_ray.data.manifest import VideoRecord
from tats_ray.data.order import CLIP
from tats_ray.data.source import DecodeError
from tats_ray.data.synthetic import GridShape, token_truth


@dataclass(frozen=True)
class Sample:
    """One decoded clip, or why there is none."""

    position: int
    path: str
    video: np.ndarray | None  # uint8 [frames, height, width, 3]
    reason: str = ""
    truth: np.ndarray | None = None  # float32 [tokens], share that shows a mover; only where it is asked for
    short: bool = False  # its video is shorter than a clip


def load_samples(
    record: VideoRecord,
    config: ClipConfig,
    *,
    seed: int,
    position: int,
    decode: Decode = decode_views,
    truth_grid: GridShape | None = None,
) -> list[Sample]:
    """Decode the clips at ``position`` and the ``views_per_decode - 1`` after it, which are cut from the same video.

    Starts, crops and flips are a function of seed and position alone. With ``truth_grid``, the tokens of a clip, each
    comes with the share of every token that shows a mover; a video whose ground truth cannot be read counts as lost.
    """
    positions = range(position, position + config.views_per_decode)
    try:
        clips = load_clips(record, config, np.random.default_rng([seed, CLIP, position]), decode=decode)
        truths = [None if truth_grid is None else _mover_share(record, clip, truth_grid) for clip in clips]
    except DecodeError as error:
        return [Sample(position, record.source.name, None, error.reason) for position in positions]
    return [
        Sample(position, record.source.name, clip.video, truth=truth, short=clip.held)
        for position, clip, truth in zip(positions, clips, truths, strict=True)
    ]


def _mover_share(record: VideoRecord, clip: Clip, grid: GridShape) -> np.ndarray:
    if record.truth is None:
        raise DecodeError(record.source.name, "it has no ground truth, and is no synthetic video")
    try:
        return token_truth(record.truth, record, clip, grid)[0]
    except (OSError, ValueError, TypeError, IndexError, zipfile.BadZipFile) as error:  # no such file, or another one
        raise DecodeError(record.source.name, f"its ground truth {record.truth} cannot be read: {error}") from error
