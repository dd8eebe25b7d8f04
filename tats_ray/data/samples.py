"""The clips at some positions of a run, or why they are missing.

This is what decoding processes import: neither it nor what it needs imports torch, which would take seconds to load and
hundreds of MiB in each of them.
"""

from dataclasses import dataclass

import numpy as np

from tats_ray.data.clips import ClipConfig, load_clips
from tats_ray.data.decode import Decode, decode_views
from tats_ray.data.manifest import VideoRecord
from tats_ray.data.order import CLIP
from tats_ray.data.source import DecodeError


@dataclass(frozen=True)
class Sample:
    """One decoded clip, or why there is none."""

    position: int
    path: str
    video: np.ndarray | None  # uint8 [frames, height, width, 3]
    reason: str = ""


def load_samples(
    record: VideoRecord, config: ClipConfig, *, seed: int, position: int, decode: Decode = decode_views
) -> list[Sample]:
    """Decode the clips at ``position`` and the ``views_per_decode - 1`` after it, which are cut from the same video.

    Starts, crops and flips are a function of seed and position alone.
    """
    positions = range(position, position + config.views_per_decode)
    try:
        clips = load_clips(record, config, np.random.default_rng([seed, CLIP, position]), decode=decode)
    except DecodeError as error:
        return [Sample(position, record.source.name, None, error.reason) for position in positions]
    return [Sample(position, record.source.name, clip.video) for position, clip in zip(positions, clips, strict=True)]
