"""Write a video anew so that it is cheap to read: small, upright, square pixels, many key frames, no sound."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

import av
import av.error
import av.filter
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from tats_ray.data.opening import is_folder, list_frames, open_video, read_frame
from tats_ray.data.scaling import orientation
from tats_ray.data.source import DecodeError, VideoSource
from tats_ray.data.timeline import intact, nominal_rate, present_all

Codec = Literal["libx264", "libx265"]

RECIPE = 1  # counts the changes of this file that change what it writes, so that older outputs are made anew
FASTSTART = {"movflags": "+faststart"}  # the index comes first: a reader over a network asks once
ENCODER_OPTIONS: dict[str, dict[str, str]] = {  # one thread each, for many videos are written side by side
    "libx264": {"threads": "1"},
    "libx265": {"x265-params": "pools=none:frame-threads=1:open-gop=0:log-level=error"},
}


@dataclass(frozen=True)
class TranscodeSettings:
    """How videos are written anew."""

    short_side: int = 256
    """Most pixels of the shorter side, even and at least 32; smaller videos are not enlarged."""
    gop: int = 12
    """Most frames from one key frame to the next."""
    codec: Codec = "libx264"
    """Encoder."""
    crf: int = 23
    """Constant rate factor, from 0 (lossless) to 51; more is smaller and worse."""

    def __post_init__(self) -> None:
        if self.short_side < 32 or self.short_side % 2:
            raise ValueError(f"short_side must be an even number of at least 32 pixels, got {self.short_side}")
        if self.gop < 1:
            raise ValueError(f"gop must be at least 1 frame, got {self.gop}; 12 reads fast, 1 makes key frames only")
        if self.codec not in get_args(Codec):
            raise ValueError(f"codec must be one of {', '.join(get_args(Codec))}, got {self.codec!r}")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf must be from 0 (lossless) to 51 (worst), got {self.crf}; 23 is the encoders' middle")


def transcode(
    source: VideoSource,
    *,
    frame_size: tuple[int, int],
    content: str,
    target: Path,
    settings: TranscodeSettings,
) -> None:
    """Write a video anew, unless ``target`` is that already.

    Every frame keeps its time, counted from the first one. The file appears when it is complete; its comment tag
    says what it was made of: source, hash and settings.

    Args:
        source: The video.
        frame_size: Width and height of its upright frames with square pixels, as :func:`probe` states them.
        content: SHA-256 of its bytes.
        target: The MP4 file to write; its folder exists.
        settings: How.

    Raises:
        DecodeError: The video does not decode to its end, or the file cannot be written.
    """
    made_of = {"source": source.name, "content": content, "recipe": RECIPE, **asdict(settings)}
    if read_made_of(target) == made_of:
        return
    partial = partial_path(target)
    try:
        with av.open(str(partial), "w", format="mp4", options=FASTSTART) as out:
            out.metadata["comment"] = json.dumps(made_of)
            _write(source, out, size=small_size(frame_size, settings.short_side), settings=settings)
        os.replace(partial, target)
    except av.error.FFmpegError as error:
        raise DecodeError(source.name, f"its transcode {target} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def partial_path(target: Path) -> Path:
    """Return where a transcode lies while it is being written: hidden, so that no listing finds it."""
    return target.with_name(f".{target.name}.partial")


def read_made_of(target: Path) -> dict[str, object] | None:
    """Return what a transcode was made of; ``None`` where there is none."""
    try:
        with av.open(str(target)) as container:
            return json.loads(container.metadata.get("comment", "null"))
    except (av.error.FFmpegError, json.JSONDecodeError):
        return None


def small_size(frame_size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return width and height with the shorter one at most ``short_side``: even, and no larger than they were."""
    scale = Fraction(short_side, min(frame_size))
    width, height = (max(2, min(2 * round(side * scale / 2), side // 2 * 2)) for side in frame_size)
    return width, height


def _write(source: VideoSource, out: OutputContainer, *, size: tuple[int, int], settings: TranscodeSettings) -> None:
    shrink, stream, last = _Shrinker(size), None, -1
    for seconds, tick, rate, frame in _frames(source):
        small = shrink(frame)
        if stream is None:
            stream = _add_stream(out, small, tick=tick, rate=rate, settings=settings)
        last = max(round(seconds / tick), last + 1)  # frames stamped alike come a tick apart
        small.pts, small.time_base, small.pict_type = last, tick, PictureType.NONE  # the encoder chooses key frames
        out.mux(stream.encode(small))
    assert stream is not None  # without a frame there was an error
    out.mux(stream.encode(None))


def _frames(source: VideoSource) -> Iterator[tuple[float, Fraction, Fraction, VideoFrame]]:
    """Decode all frames of a video; with each its second, the unit of time stamps, and the nominal frame rate."""
    if is_folder(source):
        assert source.fps is not None  # list_frames asked for it
        rate = Fraction(source.fps).limit_denominator(1001)
        for number, path in enumerate(list_frames(source)):
            yield float(number / rate), 1 / rate, rate, read_frame(source, path)
        return
    with open_video(source) as (container, stream):
        rate = Fraction(nominal_rate(stream)).limit_denominator(1001)
        tick = stream.time_base or 1 / rate
        for presented in present_all(source, container, stream):
            yield presented.seconds, tick, rate, intact(source, presented).frame


def _add_stream(
    out: OutputContainer, first: VideoFrame, *, tick: Fraction, rate: Fraction, settings: TranscodeSettings
) -> VideoStream:
    options = {**ENCODER_OPTIONS[settings.codec], "crf": str(settings.crf)}
    stream = out.add_stream(settings.codec, rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
    stream.gop_size = settings.gop
    stream.time_base = stream.codec_context.time_base = tick
    codec = stream.codec_context
    codec.colorspace, codec.color_range = first.colorspace, first.color_range
    codec.color_primaries, codec.color_trc = first.color_primaries, first.color_trc
    return stream


class _Shrinker:
    """Makes frames upright and small, in limited-range YUV 4:2:0; there is a libavfilter graph for each shape."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._graphs: dict[tuple[object, ...], av.filter.Graph] = {}

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """Return a new frame of the size."""
        upright = orientation(frame)
        # fmt: off
        shape = (
            frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, frame.interlaced_frame,
            upright,
        )
        # fmt: on
        if shape not in self._graphs:
            self._graphs[shape] = self._build(frame)
        graph = self._graphs[shape]
        graph.vpush(frame)
        return graph.vpull()

    def _build(self, frame: VideoFrame) -> av.filter.Graph:
        upright = orientation(frame)
        width, height = reversed(self._size) if upright.transposed else self._size
        nodes = [
            (
                "buffer",
                f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
                f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
            ),
            *([("field", "type=top")] if frame.interlaced_frame else []),  # as clips are read: one moment, no combs
            ("scale", f"w={width}:h={height}:flags=bicubic:out_range=limited"),
            ("format", "pix_fmts=yuv420p"),
            *([("transpose", "dir=cclock_flip")] if upright.transposed else []),
            *([("hflip", None)] if upright.mirrored else []),
            *([("vflip", None)] if upright.flipped else []),
            ("setsar", "sar=1"),
            ("buffersink", None),
        ]
        graph = av.filter.Graph()
        graph.threads = 1
        graph.link_nodes(*(graph.add(name, arguments) for name, arguments in nodes)).configure()
        return graph
