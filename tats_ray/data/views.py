"""Which views of a video are seen at test time: pure arithmetic, apart from decoding.

A view is one clip of the multi-view protocol of VideoMAE (Tong et al. 2022, arXiv 2203.12602, appendix): ``segments``
starts along time by ``crops`` squares along the longer side, at the pace of the clips that were trained on.
"""

from typing import Literal

from tats_ray.data.decode import Crop
from tats_ray.data.frames import Pace, center_crop
from tats_ray.data.manifest import VideoRecord

Crops = Literal[1, 3]
"""The square in the middle, or three: left, middle and right (top, middle and bottom of an upright video)."""


def segment_starts(record: VideoRecord, pace: Pace, *, segments: int) -> list[float]:
    """Return the starts of evenly spaced clips: the first and the last that fit, and those between them.

    With L the latest start, segment k of S starts at ``k L / (S - 1)``, rounded down to a whole frame where the pace
    counts frames. One segment is the clip in the middle. A video shorter than a clip has L = 0::

        segments=3, num_frames=4, frame_stride=2, a video of 12 frames, L = 11 - 6 = 5:

        0 1 2 3 4 5 6 7 8 9 10 11
        x   x   x   x                   <- starts at 0
            x   x   x   x               <- 5 / 2, rounded down
                  x   x   x    x        <- 5

    Raises:
        ValueError: ``segments`` is less than 1.
    """
    if segments < 1:
        raise ValueError(f"segments must be at least 1, got {segments}")
    if segments == 1:
        return [pace.center_start(record)]
    latest = max(pace.latest_start(record), 0)
    if pace.frame_stride is not None:
        return [k * int(latest) // (segments - 1) for k in range(segments)]
    return [k * latest / (segments - 1) for k in range(segments)]


def view_crops(record: VideoRecord, *, crops: Crops) -> list[Crop]:
    """Return squares as large as the shorter side: the middle one, or three from one end of the longer to the other.

    With D the longer side minus the shorter, square c of three begins at ``c D / 2``, rounded down; of a square video
    all three are the same.

    Raises:
        ValueError: ``crops`` is neither 1 nor 3.
    """
    if crops not in (1, 3):
        raise ValueError(f"crops must be 1 (the middle) or 3 (along the longer side), got {crops}")
    if crops == 1:
        return [center_crop(record)]
    side = min(record.width, record.height)
    wide, high = record.width - side, record.height - side
    return [Crop(c * wide // 2, c * high // 2, side, side) for c in range(3)]
