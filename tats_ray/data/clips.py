"""From a video of the manifest to the frames of its clips, at random for training or from the middle for validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from tats_ray.data.decode import Crop, Decode, View, decode_views
from tats_ray.data.frames import Pace, center_crop, multiscale_crop
from tats_ray.data.manifest import VideoRecord
from tats_ray.data.source import DecodeError
from tats_ray.data.views import Crops, segment_starts, view_crops


class ClipConfig(BaseModel):
    """The shape of a clip and how it is cut from a video; the defaults are VideoMAE's for Kinetics."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    num_frames: int = Field(default=16, gt=0)
    """Frames of a clip."""
    frame_stride: int | None = Field(default=4, gt=0)
    """Frames of the video from one frame of the clip to the next; exactly one of frame_stride and fps is given."""
    fps: float | None = Field(default=None, gt=0)
    """Frames of the clip a second, whatever the video's own rate; exactly one of frame_stride and fps is given."""
    views_per_decode: int = Field(default=1, ge=1)
    """Clips cut from one stretch of a video, decoded once: other crops, and starts up to half a clip later."""
    crop_size: int = Field(default=224, gt=0)
    """Height and width of a clip in pixels."""
    crop_scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(1.0, 0.875, 0.75, 0.66), min_length=1)
    """Sides of a random crop as shares of the video's shorter side, in order of size; each in (0, 1]."""
    flip: StrictBool = False
    """Whether every second clip is mirrored, at random; VideoMAE does not, because some actions have a direction."""
    short_videos: Literal["hold", "loop", "refuse"] = "hold"
    """A video with fewer frames than a clip spans has its last frame held, begins again (loop), or is refused as if it
    did not decode."""

    @model_validator(mode="after")
    def _one_pace(self) -> Self:
        if (self.frame_stride is None) == (self.fps is None):
            raise ValueError(
                f"exactly one of frame_stride and fps must be given, got frame_stride={self.frame_stride} and "
                f"fps={self.fps}; set the other to null"
            )
        return self

    @property
    def pace(self) -> Pace:
        """When a clip's frames are taken."""
        return Pace(self.num_frames, self.frame_stride, self.fps)


@dataclass(frozen=True)
class Clip:
    """The frames of one clip and where in its video they come from."""

    video: np.ndarray
    """uint8 RGB [num_frames, crop_size, crop_size, 3]."""
    times: tuple[float, ...]
    """Seconds of each frame, from the first frame of the file."""
    crop: Crop
    """Part of the video's frames that is seen."""
    flipped: bool
    """Whether the frames are mirrored, left for right."""
    held: bool
    """Whether the video was shorter than the clip, so that its last frame fills the rest, or it begins again."""


def load_clips(
    record: VideoRecord, config: ClipConfig, rng: np.random.Generator, *, decode: Decode = decode_views
) -> list[Clip]:
    """Cut ``views_per_decode`` clips at random times and places, mirrored at random if the configuration says so.

    Args:
        record: The video.
        config: The shape of the clips.
        rng: Draws the starts, then for each clip the crop, then the mirroring.
        decode: Decodes the views, here or in another process.

    Raises:
        DecodeError: The video does not decode, or is too short where short videos are refused.
    """
    starts = config.pace.random_starts(record, views=config.views_per_decode, rng=rng)
    cuts = [
        (start, multiscale_crop(record, scales=config.crop_scales, rng=rng), config.flip and bool(rng.integers(2)))
        for start in starts
    ]
    return cut_clips(record, config, cuts, decode=decode)


def load_center_clip(record: VideoRecord, config: ClipConfig, *, decode: Decode = decode_views) -> Clip:
    """Cut the clip in the middle of the video: its largest centred square, not mirrored.

    Raises:
        DecodeError: The video does not decode, or is too short where short videos are refused.
    """
    return cut_clips(record, config, [(config.pace.center_start(record), center_crop(record), False)], decode=decode)[0]


def load_view_clips(
    record: VideoRecord, config: ClipConfig, *, segments: int, crops: Crops, decode: Decode = decode_views
) -> list[Clip]:
    """Cut the ``segments * crops`` views of a test, in one decode: segment by segment, in each crop by crop.

    Raises:
        DecodeError: The video does not decode, or is too short where short videos are refused.
    """
    squares = view_crops(record, crops=crops)
    starts = segment_starts(record, config.pace, segments=segments)
    return cut_clips(record, config, [(start, crop, False) for start in starts for crop in squares], decode=decode)


def cut_clips(
    record: VideoRecord,
    config: ClipConfig,
    cuts: Sequence[tuple[float, Crop, bool]],
    *,
    decode: Decode = decode_views,
) -> list[Clip]:
    """Cut the clips of given starts, crops and mirrorings, in one decode.

    Raises:
        DecodeError: The video does not decode, or is too short where short videos are refused.
    """
    held = config.pace.latest_start(record) < 0
    if held and config.short_videos == "refuse":
        raise DecodeError(
            record.source.name,
            f"its {record.num_frames} frames, {record.duration:.3g} s, are fewer than a clip spans, and short_videos "
            f"is 'refuse'",
        )
    past_end = "loop" if config.short_videos == "loop" else "hold"
    times = [config.pace.times(record, start, past_end=past_end) for start, _, _ in cuts]
    views = [View(tuple(sorted(moments)), crop) for moments, (_, crop, _) in zip(times, cuts, strict=True)]
    videos = decode(record.source, views, frame_size=(record.width, record.height), size=config.crop_size)
    return [
        Clip(
            video=_in_order(video, moments, flipped=flipped),
            times=moments,
            crop=crop,
            flipped=flipped,
            held=held,
        )
        for video, moments, (_, crop, flipped) in zip(videos, times, cuts, strict=True)
    ]


def _in_order(video: np.ndarray, moments: Sequence[float], *, flipped: bool) -> np.ndarray:
    """Put frames that were decoded in ascending order into that of the moments."""
    if any(late < early for early, late in pairwise(moments)):
        video = video[np.argsort(np.argsort(moments, kind="stable"))]
    return np.ascontiguousarray(video[:, :, ::-1]) if flipped else video
