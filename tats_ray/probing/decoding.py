"""The views of one video, or why there are none.

This is what decoding processes import: neither it nor what it needs imports torch.
"""

from dataclasses import dataclass

import numpy as np

from tats_ray.data.clips import ClipConfig, load_view_clips
from tats_ray.data.decode import Decode, decode_views
from tats_ray.data.manifest import VideoRecord
from tats_ray.data.source import DecodeError
from tats_ray.data.views import Crops
from tats_ray.tracking.store import without_credentials


@dataclass(frozen=True)
class ViewLayout:
    """Which views each video gives; what leaves pixels as they are is no part of it."""

    clip: ClipConfig
    """Frames, pace and size of a view, and whether videos shorter than it are held or refused."""
    segments: int
    """Views along time."""
    crops: Crops
    """Views along the longer side."""

    @property
    def num_views(self) -> int:
        """Views of a video."""
        return self.segments * self.crops

    @property
    def video_bytes(self) -> int:
        """Bytes of one video's views, decoded."""
        return self.num_views * self.clip.num_frames * self.clip.crop_size**2 * 3


@dataclass(frozen=True)
class Views:
    """The decoded views of one video, or why there are none."""

    video: np.ndarray | None
    """uint8 RGB [views, num_frames, crop_size, crop_size, 3]."""
    held: bool = False
    """Whether the video was shorter than a view, so that its last frame fills the rest."""
    reason: str = ""
    """Why there are none."""


def decode_record(record: VideoRecord, layout: ViewLayout, *, decode: Decode = decode_views) -> Views:
    """Decode the views of a video in one pass; one that gives none is returned with its reason, not raised."""
    try:
        clips = load_view_clips(record, layout.clip, segments=layout.segments, crops=layout.crops, decode=decode)
    except DecodeError as error:
        return Views(None, reason=without_credentials(error.reason))
    return Views(np.stack([clip.video for clip in clips]), held=clips[0].held)
