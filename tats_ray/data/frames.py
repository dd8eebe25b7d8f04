"""Which frames of a video make a clip, and which part of them: pure arithmetic, apart from decoding."""

from collections.abc import Sequence

import numpy as np

from tats_ray.data.decode import Crop
from tats_ray.data.manifest import VideoRecord


def span_frames(num_frames: int, *, frame_stride: int) -> int:
    """Count the frames of a video from the first to the last frame of a clip, both included."""
    return (num_frames - 1) * frame_stride + 1


def random_start(record: VideoRecord, *, num_frames: int, frame_stride: int, rng: np.random.Generator) -> int:
    """Draw the first frame of a clip, uniformly among those from which the clip fits; 0 where it fits nowhere."""
    span = span_frames(num_frames, frame_stride=frame_stride)
    return int(rng.integers(max(record.num_frames - span, 0) + 1))


def center_start(record: VideoRecord, *, num_frames: int, frame_stride: int) -> int:
    """Return the first frame of the clip in the middle of the video; 0 where the clip does not fit."""
    return max(record.num_frames - span_frames(num_frames, frame_stride=frame_stride), 0) // 2


def is_short(record: VideoRecord, *, num_frames: int, frame_stride: int) -> bool:
    """Tell whether the video has fewer frames than a clip spans."""
    return record.num_frames < span_frames(num_frames, frame_stride=frame_stride)


def clip_frames(record: VideoRecord, *, num_frames: int, frame_stride: int, start_frame: int) -> np.ndarray:
    """Return the frames of a clip as int64 [num_frames]; past the end the last frame is repeated, as VideoMAE does.

    ::

        start_frame=2, num_frames=4, frame_stride=3, a video of 10 frames:

        0 1 2 3 4 5 6 7 8 9
            x     x     x x   <- 2 5 8 9, for 11 is past the end
    """
    return np.minimum(start_frame + frame_stride * np.arange(num_frames), record.num_frames - 1)


def clip_times(record: VideoRecord, *, num_frames: int, frame_stride: int, start_frame: int) -> np.ndarray:
    """Return the moments of ``clip_frames`` in seconds from the first frame: float64 [num_frames], ascending."""
    frames = clip_frames(record, num_frames=num_frames, frame_stride=frame_stride, start_frame=start_frame)
    return frames / record.fps


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
