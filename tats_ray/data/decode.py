"""Decode chosen moments of a video file into square RGB frames: seek, decode forward once, crop and scale in C."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from typing import Protocol

import av
import av.error
import av.filter
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tats_ray.data.source import DecodeError, VideoSource

# A time stamp may be rounded to its container's clock and a frame rate to a float. A quarter of a frame forgives both
# without showing a frame noticeably early.
TIME_TOLERANCE = 0.25

# An MPEG program stream stamps packs, not frames: after a seek, libav gives some frames the time of a neighbour.
SEEK_SHIFTS_TIME = ("mpeg",)


@dataclass(frozen=True)
class Crop:
    """A rectangle of a decoded frame, in its pixels; ``(x, y)`` is the upper left corner."""

    x: int
    y: int
    width: int
    height: int


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

    The frame on display at a time is the last one that begins at or before it (plus a quarter of a nominal frame). Past
    the end the last frame stays.

    Args:
        source: Where the video lies; its first video stream is read.
        views: At least one.
        frame_size: Width and height that the crops refer to.
        size: Height and width of the results in pixels; each crop is stretched to it.

    Returns:
        For each view a uint8 RGB array [times, size, size, 3].

    Raises:
        DecodeError: The video cannot be opened or decoded, or a crop does not fit its frames.
    """
    return [_decode_view(source, view, frame_size=frame_size, size=size) for view in views]


def _decode_view(source: VideoSource, view: View, *, frame_size: tuple[int, int], size: int) -> np.ndarray:
    times = view.times
    video = np.empty((len(times), size, size, 3), np.uint8)
    scaler = _Scaler(source.name, crop=view.crop, size=size)
    previous = None
    with ExitStack() as files:
        timeline = _timeline(*files.enter_context(open_video(source)), start=times[0])
        if timeline is None:  # a fresh demuxer is the only sure way to the first frame of every container
            timeline = _timeline(*files.enter_context(open_video(source)), start=0.0)
        for slot, frame in enumerate(_frames_on_display(timeline or (), times)):
            video[slot] = video[slot - 1] if frame is previous else scaler(frame)
            previous = frame
    if previous is None:
        raise DecodeError(source.name, "no frame could be decoded")
    return video


@contextmanager
def open_video(source: VideoSource) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the first video stream of a file for decoding on one thread.

    Raises:
        DecodeError: There is no such file or no video stream, or libav fails at any moment while the file is open.
    """
    try:
        with av.open(source.path) as container:
            if not container.streams.video:
                raise DecodeError(source.name, "the file has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # many files are decoded side by side; threads within one would only compete
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.error.FFmpegError as error:
        raise DecodeError(source.name, error.strerror or str(error)) from error


def nominal_rate(stream: VideoStream) -> float:
    """Frames per second as the container states or libav guesses them; 1 where neither can."""
    return float(stream.guessed_rate or 1)


def _timeline(
    container: InputContainer, stream: VideoStream, *, start: float
) -> Iterator[tuple[float, VideoFrame]] | None:
    """Pair frames, in order of presentation, with the second from which they are on display.

    The first is a key frame at or before ``start`` seconds; ``None`` where seeking does not find one.
    """
    rate, tick, packets = nominal_rate(stream), stream.time_base, container.demux(stream)
    first = next(packets)  # even an empty stream ends in a packet
    # The stream of an AVI file starts when it is first decoded, that of an edit list after its first packets.
    origin = max((time for time in (first.pts, stream.start_time) if time is not None), default=None)
    if tick is None or origin is None or start * rate < 1 or container.format.name in SEEK_SHIFTS_TIME:
        return _stamped(chain([first], packets), rate=rate, origin=origin, tick=tick)
    try:
        container.seek(origin + int((start + TIME_TOLERANCE / rate) / tick), stream=stream)
    except av.error.PermissionError:  # libav's general answer of a container that cannot be sought in
        return None
    sought = _stamped(packets, rate=rate, origin=origin, tick=tick)
    found = next(sought, None)
    return None if found is None or found[0] > start else chain([found], sought)


def _stamped(
    packets: Iterable[Packet], *, rate: float, origin: int | None, tick: Fraction | None
) -> Iterator[tuple[float, VideoFrame]]:
    """Decode packets; a stream without time stamps is timed by counting."""
    frames = (frame for packet in packets for frame in packet.decode() if isinstance(frame, VideoFrame))
    for index, frame in enumerate(frames):
        if origin is None or tick is None:
            yield (index - TIME_TOLERANCE) / rate, frame
        elif frame.pts is not None:  # a frame without a time is never on display
            yield float((frame.pts - origin) * tick) - TIME_TOLERANCE / rate, frame


def _frames_on_display(timeline: Iterable[tuple[float, VideoFrame]], times: Sequence[float]) -> Iterator[VideoFrame]:
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

    def __init__(self, path: str, *, crop: Crop, size: int) -> None:
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
