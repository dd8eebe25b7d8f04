"""Measure a video for its row of the manifest: count its frames, time them, and prove that it decodes."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tats_ray.data.manifest import VideoRecord, truth_path
from tats_ray.data.opening import content_hash, is_folder, list_frames, open_video, read_frame
from tats_ray.data.scaling import orientation
from tats_ray.data.source import VideoSource
from tats_ray.data.timeline import TIME_TOLERANCE, Presented, can_seek, intact, make_clock, nominal_rate, present_all

# Codecs whose packets may hold no frame that is shown, so that only decoding counts frames.
HIDDEN_FRAMES = ("vp8",)


@dataclass(frozen=True)
class Probe:
    """What a video is, as ``VideoRecord`` holds it."""

    num_frames: int
    fps: float
    duration: float
    width: int
    height: int
    times: Sequence[float] | None = None
    content: str | None = None


Moment = tuple[float, float]
"""Of a frame: its second, and from which second on it is shown."""


def probe(source: VideoSource) -> Probe:
    """Measure a video quickly: read all packets, and decode one frame to prove that it decodes.

    Where packets do not tell when frames are shown, as in all files that are not sought in, every frame is decoded.

    Raises:
        DecodeError: The file cannot be opened, or gives no frame.
    """
    if is_folder(source):
        paths = list_frames(source)
        return _folder(source, read_frame(source, paths[0]), num_frames=len(paths))
    with open_video(source) as (container, stream):
        if can_seek(container, stream) and stream.codec_context.name not in HIDDEN_FRAMES:
            first, stamps = _read_packets(container, stream)
            if first is not None and stamps is not None:
                clock = make_clock(source, container, stream, origin=None)
                return _measured(source, stream, first, [clock.present(stamp) for stamp in sorted(stamps)])
    with open_video(source) as (container, stream):
        first, moments = _collect(present_all(source, container, stream))
        return _measured(source, stream, first, moments)


def verify(source: VideoSource) -> Probe:
    """Measure a video by decoding every frame.

    Raises:
        DecodeError: The file cannot be opened, gives no frame, or one that does not decode or is damaged; the reason
            says at which second.
    """
    if is_folder(source):
        paths = list_frames(source)
        for path in paths[1:]:
            read_frame(source, path)
        return _folder(source, read_frame(source, paths[0]), num_frames=len(paths))
    with open_video(source) as (container, stream):
        first, moments = _collect(intact(source, frame) for frame in present_all(source, container, stream))
        return _measured(source, stream, first, moments)


def probe_record(
    source: VideoSource, *, label: int | None, measure: Callable[[VideoSource], Probe] = probe
) -> VideoRecord:
    """Measure a video, by :func:`probe` or :func:`verify`, and make its row of the manifest.

    Raises:
        DecodeError: As ``measure`` does.
    """
    truth = truth_path(source.path)
    return VideoRecord(
        id=hashlib.sha1(os.fsencode(source.name)).hexdigest()[:16],
        path=source.path,
        member=source.member,
        offset=source.offset,
        num_bytes=source.num_bytes,
        label=label,
        truth=str(truth) if source.member is None and truth.exists() else None,
        **vars(measure(source)),
    )


def _read_packets(container: InputContainer, stream: VideoStream) -> tuple[VideoFrame | None, list[int] | None]:
    """Return the first frame that decodes, and the stamps of all, or ``None`` where packets do not tell them."""
    stamps, first, key = [], None, None
    for packet in container.demux(stream):
        if first is None:  # the packet that ends the stream is empty and makes the decoder give what it holds
            first = next(iter(packet.decode()), None)
        if not packet.size:
            continue
        if packet.pts is None or (key is None and not packet.is_keyframe) or packet.pts < (key or packet.pts):
            return first, None
        key = packet.pts if key is None else key
        if not packet.is_discard:  # an edit list discards packets: decoded, but never shown
            stamps.append(packet.pts)
    return first, stamps or None


def _collect(frames: Iterable[Presented]) -> tuple[VideoFrame, list[Moment]]:
    first, moments = None, []
    for presented in frames:
        first = first or presented.frame
        moments.append((presented.seconds, presented.shown_from))
    assert first is not None
    return first, moments


def _measured(source: VideoSource, stream: VideoStream, first: VideoFrame, moments: Sequence[Moment]) -> Probe:
    seconds, shown_from = np.array(moments).T
    span = float(seconds[-1])
    fps = (len(seconds) - 1) / span if span > 0 else nominal_rate(stream)
    late = seconds - np.arange(len(seconds)) / fps
    # Frame k is found at k / fps if it is no later than decoding forgives; a tenth is left to the rounding of floats.
    found = late <= 0.9 * (seconds - shown_from)
    even = bool((found & (np.abs(late) <= TIME_TOLERANCE / fps)).all())
    width, height = _upright_size(first, stream.sample_aspect_ratio)
    times = None if even else seconds.tolist()
    return Probe(len(seconds), fps, len(seconds) / fps, width, height, times, content_hash(source))


def _upright_size(frame: VideoFrame, aspect: Fraction | None) -> tuple[int, int]:
    """Return width and height on display, with pixels made square by enlarging, so that none is lost."""
    ratio = aspect or Fraction(1)
    width, height = round(frame.width * max(ratio, Fraction(1))), round(frame.height / min(ratio, Fraction(1)))
    return (height, width) if orientation(frame).transposed else (width, height)


def _folder(source: VideoSource, first: VideoFrame, *, num_frames: int) -> Probe:
    assert source.fps is not None  # list_frames asked for it
    width, height = _upright_size(first, None)
    return Probe(num_frames, source.fps, num_frames / source.fps, width, height, content=content_hash(source))
