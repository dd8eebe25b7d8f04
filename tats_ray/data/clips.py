"""From a video of the manifest to the frames of one clip, at random for training or from the middle for validation."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from tats_ray.data.decode import Crop, DecodeError, decode_frames
from tats_ray.data.frames import (
    center_crop,
    center_start,
    clip_times,
    is_short,
    multiscale_crop,
    random_start,
    span_frames,
)
from tats_ray.data.manifest import VideoRecord


class ClipConfig(BaseModel):
    """The shape of a clip and how it is cut from a video; the defaults are VideoMAE's for Kinetics."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    num_frames: int = Field(default=16, gt=0)
    """Frames of a clip."""
    frame_stride: int = Field(default=4, gt=0)
    """Frames of the video from one frame of the clip to the next."""
    crop_size: int = Field(default=224, gt=0)
    """Height and width of a clip in pixels."""
    crop_scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(1.0, 0.875, 0.75, 0.66), min_length=1)
    """Sides of a random crop as shares of the video's shorter side, in order of size; each in (0, 1]."""
    flip: StrictBool = False
    """Whether every second clip is mirrored, at random; VideoMAE does not, because some actions have a direction."""
    short_videos: Literal["hold", "refuse"] = "hold"
    """A video with fewer frames than a clip spans has its last frame held, or is refused as if it did not decode."""


@dataclass(frozen=True)
class Clip:
    """The frames of one clip and where in its video they come from."""

    video: np.ndarray
    """uint8 RGB [num_frames, crop_size, crop_size, 3]."""
    start_frame: int
    """Frame of the video that is the clip's first."""
    crop: Crop
    """Part of the video's frames that is seen."""
    flipped: bool
    """Whether the frames are mirrored, left for right."""
    held: bool
    """Whether the video was shorter than the clip, so that its last frame fills the rest."""


@dataclass(frozen=True)
class ClipBatch:
    """Some clips of a global batch.

    Example:
        >>> batch = ClipBatch(torch.zeros(8, 16, 224, 224, 3, dtype=torch.uint8), row=torch.arange(8))
        >>> len(batch)
        8
    """

    video: torch.Tensor
    """uint8 RGB [batch, frames, height, width, 3]."""
    row: torch.Tensor
    """int64 [batch]: the place of each clip in the global batch."""

    def __post_init__(self) -> None:
        if self.video.dtype != torch.uint8 or self.video.ndim != 5 or self.video.shape[-1] != 3:
            found = f"{self.video.dtype} {list(self.video.shape)}"
            raise ValueError(f"video must be uint8 [batch, frames, height, width, 3], got {found}")
        if self.row.dtype != torch.int64 or self.row.shape != self.video.shape[:1]:
            found = f"{self.row.dtype} {list(self.row.shape)}"
            raise ValueError(f"row must be int64 [{len(self.video)}], a number for each clip, got {found}")

    def __len__(self) -> int:
        return len(self.video)

    def to(self, device: torch.device | str) -> "ClipBatch":
        """Return the batch on a device; pinned memory is copied without waiting."""
        return ClipBatch(self.video.to(device, non_blocking=True), self.row.to(device, non_blocking=True))


def load_clip(record: VideoRecord, config: ClipConfig, rng: np.random.Generator) -> Clip:
    """Cut a clip at a random time and place, mirrored at random if the configuration says so.

    Args:
        record: The video.
        config: The shape of the clip.
        rng: Draws the start, then the crop, then the mirroring.

    Raises:
        DecodeError: The video does not decode, or is too short where short videos are refused.
    """
    start = random_start(record, num_frames=config.num_frames, frame_stride=config.frame_stride, rng=rng)
    crop = multiscale_crop(record, scales=config.crop_scales, rng=rng)
    flipped = config.flip and bool(rng.integers(2))
    return _cut(record, config, start_frame=start, crop=crop, flipped=flipped)


def load_center_clip(record: VideoRecord, config: ClipConfig) -> Clip:
    """Cut the clip in the middle of the video: its largest centred square, not mirrored.

    Raises:
        DecodeError: The video does not decode, or is too short where short videos are refused.
    """
    start = center_start(record, num_frames=config.num_frames, frame_stride=config.frame_stride)
    return _cut(record, config, start_frame=start, crop=center_crop(record), flipped=False)


def _cut(record: VideoRecord, config: ClipConfig, *, start_frame: int, crop: Crop, flipped: bool) -> Clip:
    short = is_short(record, num_frames=config.num_frames, frame_stride=config.frame_stride)
    if short and config.short_videos == "refuse":
        span = span_frames(config.num_frames, frame_stride=config.frame_stride)
        raise DecodeError(
            record.path,
            f"{record.num_frames} frames are fewer than the {span} that a clip spans, and short_videos is 'refuse'",
        )
    times = clip_times(record, num_frames=config.num_frames, frame_stride=config.frame_stride, start_frame=start_frame)
    video = decode_frames(record.path, times=times, crop=crop, size=config.crop_size)
    if flipped:
        video = np.ascontiguousarray(video[:, :, ::-1])
    return Clip(video=video, start_frame=start_frame, crop=crop, flipped=flipped, held=short)
