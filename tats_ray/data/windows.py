"""Cut a long video into stretches, each a row of the manifest of its own: windows or named ones; pure arithmetic."""

import hashlib
import math
import os
from dataclasses import replace
from itertools import pairwise

import numpy as np

from tats_ray.data.frames import frame_seconds
from tats_ray.data.manifest import VideoRecord

ROUNDING = 1e-6  # seconds: k / fps is a float, so a frame at a cut may seem to come a little before it


def check_window(seconds: float) -> None:
    """Refuse a length that is none.

    Raises:
        ValueError: ``seconds`` is not positive.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"window must be a positive number of seconds, got {seconds:g}; leave it out for whole videos")


def windows(record: VideoRecord, seconds: float) -> list[VideoRecord]:
    """Cut a video at the multiples of ``seconds`` from its first frame; every frame is in one window.

    A stretch without frames gives no window. What is left at the end is a window too if it lasts at least half of
    ``seconds``; otherwise the one before is longer by it. The ground truth of a synthetic video counts from the first
    frame to the last, so a part of one has none.

    Raises:
        ValueError: ``seconds`` is not positive.
    """
    check_window(seconds)
    times = frame_seconds(record, np.arange(record.num_frames))
    number = np.floor((times + ROUNDING) / seconds).astype(np.int64)
    end = float(times[-1]) + 1 / record.fps
    earlier = number[number < number[-1]]
    if len(earlier) and end - number[-1] * seconds < seconds / 2:
        number = np.minimum(number, earlier[-1])
    bounds = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), record.num_frames]
    if len(bounds) == 2:
        return [record]
    return [_window(record, times[first:end]) for first, end in pairwise(bounds)]


def cut(record: VideoRecord, *, start: float, stop: float, name: str) -> VideoRecord:
    """Return a stretch of a video: the frame on display at ``start`` and all that begin later, but before ``stop``.

    Its id tells it from other stretches of the video by seconds and ``name``, for stretches may overlap, or be equal.

    Raises:
        ValueError: The video ends before half of the stretch.
    """
    times = frame_seconds(record, np.arange(record.num_frames))
    end = float(times[-1]) + 1 / record.fps
    if end <= (start + stop) / 2:
        raise ValueError(f"{name} is from {start:g} to {stop:g} s, and the video ends at {end:g} s")
    first = max(0, int(np.searchsorted(times, start + ROUNDING, side="right")) - 1)
    past = max(first + 1, int(np.searchsorted(times, stop - ROUNDING, side="left")))
    return _stretch(record, times[first:past], id=_id(record, repr(start), repr(stop), name))


def _window(record: VideoRecord, times: np.ndarray) -> VideoRecord:
    start = float(times[0])
    return _stretch(record, times, id=_id(record, repr(start)) if start else record.id)


def _id(record: VideoRecord, *more: str) -> str:
    return hashlib.sha1(os.fsencode("\0".join([record.source.name, *more]))).hexdigest()[:16]


def _stretch(record: VideoRecord, times: np.ndarray, *, id: str) -> VideoRecord:
    start, span = float(times[0]), float(times[-1] - times[0])
    fps = record.fps if record.times is None or not span else (len(times) - 1) / span
    return replace(
        record,
        id=id,
        num_frames=len(times),
        fps=fps,
        duration=len(times) / fps,
        truth=None,
        start=start,
        times=None if record.times is None else (times - start).tolist(),
    )
