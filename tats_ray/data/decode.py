"""Decode chosen moments of a video file into square RGB frames: seek, decode forward once, crop and scale in C."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, dropwhile

import av
import av.error
import av.filter
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# A time stamp may be rounded to its container's clock and a frame rate to a float. A quarter of a frame forgives both
# without showing a frame noticeably early.
TIME_TOLERANCE = 0.25

# An MPEG program stream stamps packs, not frames: after a seek, libav gives some frames the time of a neighbour.
SEEK_SHIFTS_TIME = ("mpeg",)


class DecodeError(Exception):
    """A video file that gives no frames, with its ``path`` and a ``reason`` fit for a table."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(os.fspath(path), reason)  # both as arguments, so that the error survives pickling

    @property
    def path(self) -> str:
        """The file, as it was given."""
        return self.args[0]

    @property
    def reason(self) -> str:
        """What is wrong with it, without the path."""
        return self.args[1]

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Crop:
    """A rectangle of a decoded frame, in its pixels; ``(x, y)`` is the upper left corner."""

    x: int
    y: int
    width: int
    height: int


def decode_frames(
    path: str | os.PathLike[str], *, times: Sequence[float] | np.ndarray, crop: Crop, size: int
) -> np.ndarray:
    """Decode the frames on display at the given times, cropped and scaled to squares.

    Args:
        path: A video file; its first video stream is read.
        times: Ascending, in seconds from the presentation of the first frame. The frame on display is the last one
            that begins at or before a time (plus a quarter of a nominal frame). Past the end the last frame stays.
        crop: The part of the decoded frame that is kept.
        size: Height and width of the result in pixels; the crop is stretched to it.

    Returns:
        uint8 RGB array [len(times), size, size, 3].

    Raises:
        DecodeError: The file cannot be opened or decoded, or the crop does not fit its frames.
        ValueError: ``times`` is empty or not ascending.
    """
    if not len(times) or np.any(np.diff(times) < 0):
        raise ValueError(f"times must be ascending seconds, at least one, got {list(times)}")
    video = np.empty((len(times), size, size, 3), np.uint8)
    scaler = _Scaler(path, crop=crop, size=size)
    previous = None
    with ExitStack() as files:
        timeline = _timeline_at(*files.enter_context(open_video(path)), start=float(times[0]))
        if timeline is None:  # a fresh demuxer is the only sure way to the first frame of every container
            timeline = _timeline(*files.enter_context(open_video(path)))
        for slot, frame in enumerate(_frames_on_display(timeline, times)):
            video[slot] = video[slot - 1] if frame is previous else scaler(frame)
            previous = frame
    if previous is None:
        raise DecodeError(path, "no frame could be decoded")
    return video


@contextmanager
def open_video(path: str | os.PathLike[str]) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the first video stream of a file for decoding on one thread.

    Raises:
        DecodeError: There is no such file or no video stream, or libav fails at any moment while the file is open.
    """
    try:
        with av.open(os.fspath(path)) as container:
            if not container.streams.video:
                raise DecodeError(path, "the file has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # many files are decoded side by side; threads within one would only compete
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.error.FFmpegError as error:
        raise DecodeError(path, error.strerror or str(error)) from error


def nominal_rate(stream: VideoStream) -> float:
    """Frames per second as the container states or libav guesses them; 1 where neither can."""
    return float(stream.guessed_rate or 1)


def _timeline(container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, VideoFrame]]:
    """Yield every frame still to be decoded, in order of presentation, with the second from which it is on display."""
    rate, origin, tick = nominal_rate(stream), stream.start_time, stream.time_base
    for index, frame in enumerate(container.decode(stream)):
        if origin is None or tick is None:  # a raw stream carries no time stamps
            yield (index - TIME_TOLERANCE) / rate, frame
        elif frame.pts is not None:  # a frame without a time is never on display
            yield float((frame.pts - origin) * tick) - TIME_TOLERANCE / rate, frame


def _timeline_at(
    container: InputContainer, stream: VideoStream, *, start: float
) -> Iterator[tuple[float, VideoFrame]] | None:
    """Begin the timeline at a key frame no later than ``start`` seconds; ``None`` where seeking does not find one."""
    rate, origin, tick = nominal_rate(stream), stream.start_time, stream.time_base
    if origin is None or tick is None or start * rate < 1 or container.format.name in SEEK_SHIFTS_TIME:
        return _timeline(container, stream)
    try:
        container.seek(origin + int((start + TIME_TOLERANCE / rate) / tick), stream=stream)
    except av.error.PermissionError:  # libav's general answer of a container that cannot be sought in
        return None
    # Frames presented before the key frame refer to frames that were skipped, and may be damaged.
    sought = dropwhile(lambda item: not item[1].key_frame, _timeline(container, stream))
    first = next(sought, None)
    if first is None or first[0] > start:
        return None
    return chain([first], sought)


def _frames_on_display(
    timeline: Iterator[tuple[float, VideoFrame]], times: Sequence[float] | np.ndarray
) -> Iterator[VideoFrame]:
    """Yield, for each of the ascending times, the last frame that begins no later; stop reading when all are found."""
    shown, found = None, 0
    for begins, frame in timeline:
        while begins > times[found]:
            yield frame if shown is None else shown
            found += 1
            if found == len(times):
                return
        shown = frame
    if shown is not None:
        yield from [shown] * (len(times) - found)


class _Scaler:
    """Crops, scales and converts frames of one shape to RGB in one libavfilter pass."""

    def __init__(self, path: str | os.PathLike[str], *, crop: Crop, size: int) -> None:
        self._path, self._crop, self._size = path, crop, size
        self._graph: av.filter.Graph | None = None
        self._shape: tuple[int, int, str] | None = None

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """Return the frame's crop as a uint8 RGB array [size, size, 3]."""
        shape = (frame.width, frame.height, frame.format.name)
        graph = self._graph or self._build(frame)
        if self._graph is not None and shape != self._shape:
            raise DecodeError(self._path, f"the frames change from {self._shape} to {shape} within the clip")
        self._graph, self._shape = graph, shape
        graph.vpush(frame)
        return graph.vpull().to_ndarray()

    def _build(self, frame: VideoFrame) -> av.filter.Graph:
        crop, size = self._crop, self._size
        if not (
            0 <= crop.x < crop.x + crop.width <= frame.width and 0 <= crop.y < crop.y + crop.height <= frame.height
        ):
            raise DecodeError(self._path, f"{crop} lies outside its frames of {frame.width}x{frame.height} pixels")
        graph = av.filter.Graph()
        graph.threads = 1
        graph.link_nodes(
            graph.add(
                "buffer",
                f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
                f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
            ),
            graph.add("crop", f"w={crop.width}:h={crop.height}:x={crop.x}:y={crop.y}:exact=1"),
            graph.add("scale", f"w={size}:h={size}:flags=bilinear"),
            graph.add("format", "pix_fmts=rgb24"),
            graph.add("buffersink"),
        ).configure()
        return graph
