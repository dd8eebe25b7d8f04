"""Open what a video source names: a file, a member of a tar shard, an object behind a URI, a folder of frames."""

import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import av
import av.error
import fsspec
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tats_ray.data.source import DecodeError, VideoSource

FRAME_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def is_folder(source: VideoSource) -> bool:
    """Tell whether the video is a local folder of frames."""
    return os.path.isdir(source.path)


@contextmanager
def open_video(source: VideoSource) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the first video stream of a file for decoding on one thread.

    Raises:
        DecodeError: There is no such file or no video stream, or reading or libav fails while the file is open.
    """
    if source.offset is None and "://" not in source.path:
        with _open_libav(source.path, name=source.name) as opened:
            yield opened
    else:
        with open_bytes(source) as file, _open_libav(file, name=source.name) as opened:
            yield opened


@contextmanager
def _open_libav(file: "str | Window", *, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        with av.open(file, mode="r") as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise DecodeError(name, "the file has no video stream")
            stream = streams[0]
            stream.thread_type = "NONE"  # many files are decoded side by side; threads within one would only compete
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.error.FFmpegError as error:
        raise DecodeError(name, error.strerror or str(error)) from error


@contextmanager
def open_bytes(source: VideoSource) -> Iterator["Window"]:
    """Open the bytes of one video for reading; not those of a folder.

    Raises:
        DecodeError: They cannot be opened, or at any later moment not be read.
    """
    try:
        file = _open(source.path)
    except Exception as error:  # every file system of fsspec raises its own kinds
        raise DecodeError(source.name, _reason(error)) from error
    with file:
        yield Window(file, source)


def _open(path: str) -> IO[bytes]:
    if "://" not in path:
        return open(path, "rb")
    system, place = fsspec.url_to_fs(path)
    return system.open(place, "rb")


class Window(io.RawIOBase):
    """The bytes of one video within a larger file, read only; all failures to read them are ``DecodeError``."""

    def __init__(self, file: IO[bytes], source: VideoSource) -> None:
        super().__init__()
        self._file, self._name, self._start, self._at = file, source.name, source.offset or 0, 0
        self._size = self._length() if source.num_bytes is None else source.num_bytes

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a place counted from the start, the place of the next byte, or the end."""
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Read at most as many bytes as the buffer holds."""
        wanted = max(0, min(len(buffer), self._size - self._at))
        try:
            self._file.seek(self._start + self._at)
            data = self._file.read(wanted)
        except Exception as error:  # every file system of fsspec raises its own kinds
            raise DecodeError(self._name, _reason(error)) from error
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _length(self) -> int:
        try:
            return self._file.seek(0, os.SEEK_END)
        except Exception as error:  # every file system of fsspec raises its own kinds
            raise DecodeError(self._name, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def list_frames(source: VideoSource) -> list[str]:
    """List the frames of a folder in the natural order of their names: frame_9.png before frame_10.png.

    Raises:
        DecodeError: The folder has none, or the source does not say how many are shown a second.
    """
    if not source.fps:
        raise DecodeError(source.name, "a folder of frames does not tell its frame rate; give the source its fps")
    names = [name for name in os.listdir(source.path) if name.lower().endswith(FRAME_SUFFIXES) and name[0] != "."]
    if not names:
        raise DecodeError(source.name, f"the folder holds no frames; looked for {' '.join(FRAME_SUFFIXES)}")
    return [os.path.join(source.path, name) for name in sorted(names, key=_natural)]


def _natural(name: str) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def read_frame(source: VideoSource, path: str) -> VideoFrame:
    """Decode one frame, ``path``, of a folder.

    Raises:
        DecodeError: It cannot be read.
    """
    try:
        # Not by its path, in which libav would take '%04d' for a pattern, but by its bytes.
        with open_bytes(VideoSource(path)) as file, _open_libav(file, name=path) as (container, stream):
            frame = next(container.decode(stream), None)
    except DecodeError as error:
        raise DecodeError(source.name, f"{os.path.basename(path)}: {error.reason}") from error
    if frame is None or frame.is_corrupt:
        raise DecodeError(source.name, f"{os.path.basename(path)}: the picture is damaged")
    return frame


def content_hash(source: VideoSource) -> str:
    """Return the SHA-256 of a video's bytes, of all frames in their order for a folder, in hexadecimal.

    Raises:
        DecodeError: The bytes cannot be read.
    """
    parts: Sequence[VideoSource] = [source]
    if is_folder(source):
        parts = [VideoSource(path) for path in list_frames(source)]
    digest = hashlib.sha256()
    for part in parts:
        with open_bytes(part) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
