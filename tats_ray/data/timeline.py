"""When the frames of a video are presented, counted in seconds from the first one, and how to come to a moment fast.

Seeking is done only where the tests prove that it gives the very frames of a decode from the beginning. Elsewhere
(``SEEKABLE`` says why) a file is decoded from its first frame: correct before fast.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import chain, dropwhile
from typing import NamedTuple

import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from tats_ray.data.opening import open_video
from tats_ray.data.source import DecodeError, VideoSource

# A time stamp may be rounded to its container's clock and a frame rate to a float. A quarter of a frame forgives both
# without showing a frame noticeably early.
TIME_TOLERANCE = 0.25

# Containers that index key frames and stamp every frame with the time of its presentation. All others are decoded from
# the beginning:
# - mpegts, mpeg: a seek is a guess by position; stamps repeat, jump at a splice, or belong to a neighbour;
# - asf: after a seek the same packet may be stamped differently;
# - gif, ogg, raw streams and what else libav reads: no index, or frames made of all before them, or not proved.
SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv")

# Containers that stamp packets in the order of decoding: libav gives frames that B-frames moved a wrong time. The
# stamps are right as a set, so the n-th frame has the n-th smallest.
STAMPED_BY_PACKET = ("avi", "asf")


class Presented(NamedTuple):
    """A frame and its time."""

    seconds: float
    """From the first frame of the video to this one."""
    shown_from: float
    """``seconds`` less what is forgiven for rounding: a quarter of the frame before it, or of a nominal one."""
    frame: VideoFrame


@dataclass
class Clock:
    """Turns the time stamps of frames, in order of presentation, into ascending seconds."""

    name: str
    """The video, for messages."""
    tick: float
    """Seconds of a unit of the stamps."""
    frame: float
    """Seconds of a nominal frame."""
    origin: int | None
    """Stamp of the video's first frame; the first that is seen, where ``None``."""
    restarts: bool
    """Whether a clock that runs backwards was spliced; where files are sought in, it is damaged."""
    _earlier: float | None = None
    _shift: float = 0.0

    @property
    def least_forgiven(self) -> float:
        """Seconds that are forgiven of any frame: different stamps differ by a tick."""
        return TIME_TOLERANCE * min(self.frame, self.tick)

    def present(self, stamp: int | None) -> tuple[float, float]:
        """Return the second of the next frame, and from which second on it is shown.

        Raises:
            DecodeError: Time runs backwards in a file that is sought in.
        """
        earlier, seconds = self._earlier, self._seconds(stamp)
        gap = self.frame if earlier is None else seconds - earlier
        self._earlier = seconds
        return seconds, seconds - TIME_TOLERANCE * min(self.frame, gap)

    def _seconds(self, stamp: int | None) -> float:
        earlier = self._earlier
        if earlier is None and self.origin is None:
            self.origin = stamp
        if stamp is None or self.origin is None:  # a raw stream is timed by counting
            return 0.0 if earlier is None else earlier + self.frame
        seconds = (stamp - self.origin) * self.tick + self._shift
        if earlier is None or seconds > earlier:
            return seconds
        if seconds + self.tick > earlier:  # stamped alike by a coarse clock: spread over the time to its next tick
            return (earlier + seconds + self.tick) / 2
        if not self.restarts:
            raise DecodeError(self.name, f"its time runs backwards after {earlier:.2f} s")
        self._shift += earlier + self.frame - seconds
        return earlier + self.frame


def nominal_rate(stream: VideoStream) -> float:
    """Frames per second as the container states or libav guesses them; 1 where neither can."""
    return float(stream.guessed_rate or 1)


def can_seek(container: InputContainer, stream: VideoStream) -> bool:
    """Tell whether a seek is proved to give the frames of a decode from the beginning."""
    if container.format.name == "avi":  # has an index; without B-frames, the two orders are one
        return not stream.codec_context.has_b_frames
    return container.format.name in SEEKABLE


def make_clock(source: VideoSource, container: InputContainer, stream: VideoStream, *, origin: int | None) -> Clock:
    """Make the clock of a video whose first frame is stamped ``origin``; ``None`` takes the first that is presented."""
    tick, frame = float(stream.time_base or 0), 1 / nominal_rate(stream)
    return Clock(source.name, tick, frame, origin, restarts=not can_seek(container, stream))


@contextmanager
def presented_from(source: VideoSource, start: float) -> Iterator[Iterator[Presented]]:
    """Open a video and give its frames from the last key frame on that is presented at or before ``start`` seconds.

    Raises:
        DecodeError: The video cannot be opened, or a frame on the way does not decode.
    """
    with ExitStack() as files:
        container, stream = files.enter_context(open_video(source))
        if start * nominal_rate(stream) >= 1 and can_seek(container, stream):
            sought = _seek(source, container, stream, start=start)
            if sought is not None:
                yield sought
                return
            # A fresh demuxer is the only sure way back to the first frame of every container.
            container, stream = files.enter_context(open_video(source))
        yield present_all(source, container, stream)


def present_all(source: VideoSource, container: InputContainer, stream: VideoStream) -> Iterator[Presented]:
    """Give the frames of a freshly opened video from the first to the last.

    Raises:
        DecodeError: There is no frame, or one does not decode; the reason says at which second.
    """
    clock = make_clock(source, container, stream, origin=None)
    frames = _presented(_decoded(container.demux(stream), container), clock)
    first = next(frames, None)
    if first is None:
        raise DecodeError(source.name, "no frame could be decoded")
    yield first
    yield from frames


def intact(source: VideoSource, presented: Presented) -> Presented:
    """Return the frame.

    Raises:
        DecodeError: It is damaged.
    """
    if presented.frame.is_corrupt:
        raise DecodeError(source.name, f"the frame at {presented.seconds:.2f} s is damaged")
    return presented


def _seek(
    source: VideoSource, container: InputContainer, stream: VideoStream, *, start: float
) -> Iterator[Presented] | None:
    """Give the frames from a key frame at or before ``start`` on, or ``None`` where a seek does not find it."""
    origin = _first_stamp(container.demux(stream))
    if origin is None:
        return None
    clock = make_clock(source, container, stream, origin=origin)
    latest = origin + int((start + clock.least_forgiven) / clock.tick)
    try:
        container.seek(latest, stream=stream)
    except av.error.PermissionError:  # libav's general answer of a container that cannot be sought in
        return None
    packets = dropwhile(lambda packet: packet.size and not packet.is_keyframe, container.demux(stream))
    key = next(packets)  # even an empty stream ends in a packet
    if key.pts is None:
        return None
    # Frames that open a group but are presented before its key frame lack the frames they are made from.
    frames = _presented(_decoded(chain([key], packets), container, since=key.pts), clock)
    found = next(frames, None)
    if found is None or found.seconds > start + clock.least_forgiven:
        return None
    if found.frame.pict_type != PictureType.I:  # refreshed bit by bit: no picture of such a stream is whole by itself
        return None
    return chain([found], frames)


def _first_stamp(packets: Iterable[Packet]) -> int | None:
    """Return the stamp of the first frame that is presented, or ``None`` where only decoding tells which that is."""
    key, first = None, None
    for packet in packets:
        if packet.pts is None or (key is None and not packet.is_keyframe):
            return None
        key = packet.pts if key is None else key
        if packet.pts < key:
            return None
        if not packet.is_discard:  # an edit list discards packets: decoded, but never shown
            first = packet.pts if first is None else min(first, packet.pts)
        if first is not None and packet.dts is not None and packet.dts >= first:
            return first  # nothing is presented before it is decoded, so all that comes now is later
    return None


def _decoded(
    packets: Iterable[Packet], container: InputContainer, *, since: int | None = None
) -> Iterator[tuple[int | None, VideoFrame]]:
    """Decode packets to frames and their time stamps, leaving out those before ``since``."""
    by_packet, waiting = container.format.name in STAMPED_BY_PACKET, []
    for packet in packets:
        if by_packet and packet.pts is not None:
            heappush(waiting, packet.pts)
        for frame in packet.decode():
            assert isinstance(frame, VideoFrame)
            stamp = heappop(waiting) if waiting else frame.pts
            if since is None or (stamp is not None and stamp >= since):
                yield stamp, frame


def _presented(frames: Iterable[tuple[int | None, VideoFrame]], clock: Clock) -> Iterator[Presented]:
    place = "before its first frame"
    try:
        for stamp, frame in frames:
            seconds, shown_from = clock.present(stamp)
            place = f"after {seconds:.2f} s"
            yield Presented(seconds, shown_from, frame)
    except av.error.FFmpegError as error:
        raise DecodeError(clock.name, f"{error.strerror or error} {place}") from error
