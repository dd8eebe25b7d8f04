"""Decode chosen moments of a video into square RGB frames: seek, decode forward once, crop and scale in C."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Protocol

import numpy as np
from av.video.frame import VideoFrame

from tats_ray.data.opening import is_folder, list_frames, read_frame
from tats_ray.data.scaling import Crop, Scaler
from tats_ray.data.source import DecodeError, VideoSource
from tats_ray.data.timeline import TIME_TOLERANCE, Presented, intact, presented_from


@dataclass(frozen=True)
class View:
    """One clip to be taken from a video: some moments, and the part of the frames that is seen."""

    times: tuple[float, ...]
    """Ascending, in seconds from the presentation of the video's first frame, at least one."""
    crop: Crop
    """In pixels of the upright frame with square pixels, as the manifest states its size."""

    def __post_init__(self) -> None:
        if not self.times or any(late < early for early, late in pairwise(self.times)):
            raise ValueError(f"times must be ascending seconds, at least one, got {list(self.times)}")


class Decode(Protocol):
    """What :func:`decode_views` does, here or in another process."""

    def __call__(
        self, source: VideoSource, views: Sequence[View], *, frame_size: tuple[int, int], size: int
    ) -> list[np.ndarray]:
        """Return an array for each view; raise :class:`DecodeError` where the video does not give it."""
        ...


def decode_views(
    source: VideoSource, views: Sequence[View], *, frame_size: tuple[int, int], size: int
) -> list[np.ndarray]:
    """Decode several views of a video in one pass: seek, decode forward once, crop and scale in C.

    The frame on display at a time is the last one that begins at or before it (plus a quarter of a nominal frame, or of
    the frame before it if that is shorter). Past the end the last frame stays.

    Args:
        source: Where the video lies; its first video stream is read, or its folder of frames.
        views: At least one.
        frame_size: Width and height that the crops refer to: of the upright frame with square pixels. A frame of
            another size, after a change of resolution, is cut in the same proportions.
        size: Height and width of the results in pixels; each crop is stretched to it.

    Returns:
        For each view a uint8 RGB array [times, size, size, 3], the same that it would give alone.

    Raises:
        DecodeError: The video cannot be opened or decoded, a frame on display is damaged, or a crop does not fit.
    """
    return cut_views(source, views, partial(_frames_on_display, source), frame_size=frame_size, size=size)


def cut_views(
    source: VideoSource,
    views: Sequence[View],
    on_display: Callable[[Sequence[float]], Iterator[VideoFrame]],
    *,
    frame_size: tuple[int, int],
    size: int,
) -> list[np.ndarray]:
    """Do what :func:`decode_views` does, with frames from anywhere.

    ``on_display`` gives the frame on display at each of the ascending times; the same object for the same frame.
    """
    for view in views:
        if not view.crop.fits(frame_size):
            width, height = frame_size
            raise DecodeError(source.name, f"{view.crop} lies outside its frames of {width}x{height} pixels")
    moments = sorted((time, number) for number, view in enumerate(views) for time in view.times)
    scalers = [Scaler(view.crop, frame_size=frame_size, size=size) for view in views]
    videos = [np.empty((len(view.times), size, size, 3), np.uint8) for view in views]
    filled = [0] * len(views)
    latest: list[VideoFrame | None] = [None] * len(views)
    for (_, number), frame in zip(moments, on_display([time for time, _ in moments]), strict=True):
        video, slot = videos[number], filled[number]
        video[slot] = video[slot - 1] if frame is latest[number] else scalers[number](frame)
        filled[number], latest[number] = slot + 1, frame
    return videos


def _frames_on_display(source: VideoSource, times: Sequence[float]) -> Iterator[VideoFrame]:
    """Yield the frame on display at each of the ascending times; the same object for the same frame."""
    if is_folder(source):
        yield from _folder_on_display(source, times)
        return
    with presented_from(source, times[0]) as frames:
        for shown in last_begun(frames, times):
            yield intact(source, shown).frame


def _folder_on_display(source: VideoSource, times: Sequence[float]) -> Iterator[VideoFrame]:
    paths, index, frame = list_frames(source), -1, None
    for time in times:
        wanted = frame_at(source, time, num_frames=len(paths))
        if frame is None or wanted != index:
            index, frame = wanted, read_frame(source, paths[wanted])
        yield frame


def frame_at(source: VideoSource, time: float, *, num_frames: int) -> int:
    """Return the number of the frame of a folder that is on display at a time."""
    return min(max(0, int(time * (source.fps or 0) + TIME_TOLERANCE)), num_frames - 1)


def last_begun(frames: Iterator[Presented], times: Sequence[float]) -> Iterator[Presented]:
    """Yield, for each of the ascending times, the last frame that begins no later; stop reading when all are found."""
    shown, found = next(frames), 0
    for presented in frames:
        while presented.shown_from > times[found]:
            yield shown
            found += 1
            if found == len(times):
                return
        shown = presented
    for _ in times[found:]:
        yield shown
