"""Where the bytes of a video lie, and the error that a video without frames raises."""

import os
from dataclasses import dataclass


class DecodeError(Exception):
    """A video that gives no frames, with its ``path`` and a ``reason`` fit for a table."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(os.fspath(path), reason)  # both as arguments, so that the error survives pickling

    @property
    def path(self) -> str:
        """The video, as it was given."""
        return self.args[0]

    @property
    def reason(self) -> str:
        """What is wrong with it, without the path."""
        return self.args[1]

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class VideoSource:
    """Where the bytes of one video lie; small and picklable."""

    path: str
    """A video file, a tar shard that holds it, or a folder of frames; a local path, or a URI that fsspec knows."""
    member: str | None = None
    """Name of the video within its tar shard."""
    offset: int | None = None
    """First byte of the video within its tar shard; given together with ``num_bytes``."""
    num_bytes: int | None = None
    """Bytes of the video within its tar shard."""
    fps: float | None = None
    """Frames per second of a folder of frames; files know their own."""

    def __post_init__(self) -> None:
        if (self.offset is None) != (self.num_bytes is None):
            raise ValueError(
                f"offset and num_bytes must be given together, got offset={self.offset} and "
                f"num_bytes={self.num_bytes}; leave both out for a video that is a file of its own"
            )

    @property
    def name(self) -> str:
        """How the video is called in messages and tables."""
        return self.path if self.member is None else f"{self.path}::{self.member}"
