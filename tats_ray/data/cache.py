"""Videos decoded once and kept in memory: what that takes, and a decoder whose processes keep the frames."""

import logging
import threading
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from tats_ray.data.decode import View
from tats_ray.data.guard import GuardConfig, GuardedDecoder
from tats_ray.data.kept import decode_kept
from tats_ray.data.manifest import Manifest
from tats_ray.data.source import VideoSource

GIB = 2**30
BYTES_PER_PIXEL = 1.5
"""Of 4:2:0 video with 8 bits a channel, as nearly all is."""
LINE_PIXELS = 128
"""libav begins every line of every plane at a round address, so that the frames of small videos take more."""
MARGIN = 1.25
"""Address space beyond the frames themselves."""

_logger = logging.getLogger(__name__)


class CacheConfig(GuardConfig):
    """Whether decoded videos are kept."""

    cache: Literal["none", "memory"] = "none"
    """Decode clips anew each time (none), or every video once, keeping all its frames in memory (memory)."""
    cache_gib: float = Field(default=8.0, gt=0)
    """Memory for kept frames, in GiB, of all workers of a run together; each keeps every video."""


class CachingDecoder(GuardedDecoder):
    """A ``GuardedDecoder`` whose children keep the frames of the videos that they decoded.

    A video is decoded whole with its first clip, within ``data.decode_seconds``, and kept by that child: ask for its
    later clips in the same thread. A child that crashes loses what it kept; it is decoded again when it is asked for.
    """

    def __init__(self, config: CacheConfig, *, processes: int) -> None:
        """Keep frames in so many children, of all workers together."""
        self._max_bytes = int(config.cache_gib * GIB / processes)
        super().__init__(config, more_memory_mib=int(MARGIN * self._max_bytes / 2**20))
        self._cache_gib = config.cache_gib
        self._told = threading.Event()

    def __call__(
        self, source: VideoSource, views: Sequence[View], *, frame_size: tuple[int, int], size: int
    ) -> list[np.ndarray]:
        """Do what :func:`decode_views` does.

        Raises:
            DecodeError: The video cannot be decoded, crashed its process, or took too much time or memory.
        """
        cut = self.call(decode_kept, source, views, frame_size=frame_size, size=size, max_bytes=self._max_bytes)
        if cut.crowded and not self._told.is_set():
            self._told.set()
            _logger.warning(
                "the frames of %s, and perhaps of more videos, have no room left in data.cache_gib=%g and are decoded "
                "anew each time; raise it to keep them",
                source.name,
                self._cache_gib,
            )
        return cut.views


def frames_gib(manifest: Manifest) -> float:
    """Estimate the memory that all frames of all videos take, in GiB."""
    num_frames, width, height = (manifest.table[name].to_numpy() for name in ("num_frames", "width", "height"))
    lines = np.ceil(width / LINE_PIXELS) * LINE_PIXELS
    return float(np.sum(num_frames * lines * height) * BYTES_PER_PIXEL / GIB)
