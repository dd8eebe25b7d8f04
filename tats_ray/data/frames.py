"""When a clip's frames are taken and which part of them is seen: pure arithmetic, apart from decoding.

A clip begins at a *start* and takes ``num_frames`` moments at a *pace*: every ``frame_stride``-th frame of the video,
or ``fps`` frames a second whatever the video's own rate. Starts are frames in the first case, seconds in the second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tats_ray.data.decode import Crop
from tats_ray.data.manifest import VideoRecord

OFFSET_SHARE = 0.5
"""Further views of one decode begin within this share of a clip's span after the first."""


@dataclass(frozen=True)
class Pace:
    """How many moments a clip has and how far apart they are; one of ``frame_stride`` and ``fps`` is given."""

    num_frames: int
    frame_stride: int | None = None
    fps: float | None = None

    def latest_start(self, record: VideoRecord) -> float:
        """Return the last start from which the clip fits into the video; negative where it fits nowhere."""
        if self.frame_stride is not None:
            return record.num_frames - 1 - (self.num_frames - 1) * self.frame_stride
        return last_frame_seconds(record) - self._seconds

    def random_starts(self, record: VideoRecord, *, views: int, rng: np.random.Generator) -> list[float]:
        """Draw starts of several views of one stretch of a video; all 0 where the clip does not fit.

        The first is uniform among all that fit, the others within half a span after it.
        """
        latest = max(self.latest_start(record), 0)
        if self.frame_stride is not None:
            reach = int((self.num_frames - 1) * self.frame_stride * OFFSET_SHARE)
            first = int(rng.integers(int(latest) + 1))
            return [first, *(min(first + int(rng.integers(reach + 1)), latest) for _ in range(views - 1))]
        first = float(rng.uniform(0, latest))
        return [
            first,
            *(min(first + float(rng.uniform(0, self._seconds * OFFSET_SHARE)), latest) for _ in range(views - 1)),
        ]

    def center_start(self, record: VideoRecord) -> float:
        """Return the start of the clip in the middle of the video; 0 where the clip does not fit."""
        latest = max(self.latest_start(record), 0)
        return latest // 2 if self.frame_stride is not None else latest / 2

    def times(
        self, record: VideoRecord, start: float, *, past_end: Literal["hold", "loop"] = "hold"
    ) -> tuple[float, ...]:
        """Return the moments of a clip in seconds from the first frame of the file; ascending unless it begins again.

        Past the end the last frame is held, as VideoMAE does, or the video begins again (loop)::

            start=2, num_frames=4, frame_stride=3, a video of 10 frames:

            0 1 2 3 4 5 6 7 8 9
                x     x     x x   <- hold: 2 5 8 9, for 11 is past the end
              x x     x     x     <- loop: 2 5 8 1, for 11 is the second of its second round
        """
        steps = np.arange(self.num_frames)
        if self.frame_stride is not None:
            frames = int(start) + self.frame_stride * steps
            last = record.num_frames - 1
            seconds = frame_seconds(record, np.minimum(frames, last) if past_end == "hold" else frames % (last + 1))
        else:
            assert self.fps is not None
            seconds, last = start + steps / self.fps, last_frame_seconds(record)
            seconds = np.minimum(seconds, last) if past_end == "hold" else seconds % (last + 1 / record.fps)
        return tuple((record.start + seconds).tolist())

    @property
    def _seconds(self) -> float:
        assert self.fps is not None
        return (self.num_frames - 1) / self.fps


def frame_seconds(record: VideoRecord, frames: np.ndarray) -> np.ndarray:
    """Return when frames of a video begin, in seconds from its first."""
    return frames / record.fps if record.times is None else np.asarray(record.times)[frames]


def last_frame_seconds(record: VideoRecord) -> float:
    """Return when the last frame of a video begins, in seconds from its first."""
    return float(frame_seconds(record, np.array([record.num_frames - 1]))[0])


def center_crop(record: VideoRecord) -> Crop:
    """Return the largest square in the middle of the frame."""
    side = min(record.width, record.height)
    return Crop((record.width - side) // 2, (record.height - side) // 2, side, side)


def multiscale_crop(record: VideoRecord, *, scales: Sequence[float], rng: np.random.Generator) -> Crop:
    """Draw a crop by the multi-scale rule of VideoMAE and, before it, TSN (arXiv 1608.00859, section 3.2).

    Width and height are shares of the shorter side that are neighbours in ``scales`` or equal. The place is one of 13
    on a lattice of five by five: corners, edge middles and centre, and the four places halfway to the corners.

    Args:
        record: The video, for the size of its frames.
        scales: Shares in (0, 1], in order of size.
        rng: Draws the shape first, then the place.
    """
    side = min(record.width, record.height)
    lengths = [max(1, int(side * scale)) for scale in scales]
    shapes = [
        (width, height)
        for i, width in enumerate(lengths)
        for j, height in enumerate(lengths)
        if abs(i - j) <= 1  # one step apart at most: aspect ratios stay moderate
    ]
    width, height = shapes[rng.integers(len(shapes))]
    places = [(column, row) for column in range(5) for row in range(5) if column % 2 == row % 2]
    column, row = places[rng.integers(len(places))]
    return Crop(column * (record.width - width) // 4, row * (record.height - height) // 4, width, height)
