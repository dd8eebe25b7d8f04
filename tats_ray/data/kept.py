"""Decoded frames kept by a decoding process, so that a video is decoded once and cut as often as one likes."""

from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from av.video.frame import VideoFrame

from tats_ray.data.decode import View, cut_views, decode_views, frame_at, last_begun
from tats_ray.data.opening import is_folder, list_frames, read_frame
from tats_ray.data.source import DecodeError, VideoSource
from tats_ray.data.timeline import Presented, intact, presented_from


class Cut(NamedTuple):
    """The views of a video."""

    views: list[np.ndarray]
    crowded: bool
    """Whether the video was decoded anew because its frames have no room."""


def decode_kept(
    source: VideoSource, views: Sequence[View], *, frame_size: tuple[int, int], size: int, max_bytes: int
) -> Cut:
    """Do what :func:`decode_views` does, to the same bits, from frames that this process keeps from the first call on.

    Frames stay as they were decoded, whole and in the video's own format. A video that has no room in what is left of
    ``max_bytes``, or does not decode from end to end, is not kept but decoded anew each time.

    Raises:
        DecodeError: As :func:`decode_views` does.
    """
    store = _store(max_bytes)
    frames = store.frames(source)
    if frames is None:
        return Cut(decode_views(source, views, frame_size=frame_size, size=size), source in store.crowded_out)
    on_display = partial(_on_display, source, frames)
    return Cut(cut_views(source, views, on_display, frame_size=frame_size, size=size), crowded=False)


class FrameStore:
    """The frames of the videos that were asked for, as long as there is room."""

    def __init__(self, max_bytes: int) -> None:
        self._room = max_bytes
        self._frames: dict[VideoSource, Sequence[Presented] | None] = {}
        self.crowded_out: set[VideoSource] = set()
        """Videos that there was no room for."""

    def frames(self, source: VideoSource) -> Sequence[Presented] | None:
        """Return all frames of a video, or ``None`` where they are not kept."""
        if source not in self._frames:
            self._frames[source] = self._decoded(source)
        return self._frames[source]

    def _decoded(self, source: VideoSource) -> Sequence[Presented] | None:
        frames, room = [], self._room
        try:
            for presented in _all_frames(source):
                room -= num_bytes(presented.frame)
                if room < 0:
                    self.crowded_out.add(source)
                    return None
                frames.append(presented)
        except DecodeError:  # of a part that the views may not need: decoding anew tells
            return None
        self._room = room
        return frames


@cache
def _store(max_bytes: int) -> FrameStore:
    """Return the store of this process."""
    return FrameStore(max_bytes)


def num_bytes(frame: VideoFrame) -> int:
    """Return the memory of a frame, with the margins that libav gives its lines."""
    return sum(plane.buffer_size for plane in frame.planes)


def _all_frames(source: VideoSource) -> Iterator[Presented]:
    if is_folder(source):
        for path in list_frames(source):
            yield Presented(0.0, 0.0, read_frame(source, path))
        return
    with presented_from(source, 0.0) as frames:
        yield from frames


def _on_display(source: VideoSource, frames: Sequence[Presented], times: Sequence[float]) -> Iterator[VideoFrame]:
    if is_folder(source):
        return (frames[frame_at(source, time, num_frames=len(frames))].frame for time in times)
    return (intact(source, shown).frame for shown in last_begun(iter(frames), times))
