"""Files of what is made of a manifest's videos: in parts that are whole or absent, so that work can go on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tats_ray.data.places import whole

PART_BYTES, PART_VIDEOS = 64 * 2**20, 32
"""What the decoded videos of a part take at most, and how many they are; at least one."""


class PartError(Exception):
    """A part cannot be made, written or read; the message says why, and the way out."""


@dataclass(frozen=True)
class Part:
    """Neighbouring rows of a manifest whose videos are worked on together."""

    number: int
    rows: range


def cut(num_videos: int, *, video_bytes: int) -> list[Part]:
    """Cut a manifest's rows into parts that fit into memory, in order; ``video_bytes`` are what one takes, decoded."""
    size = max(1, min(PART_VIDEOS, PART_BYTES // video_bytes))
    starts = range(0, num_videos, size)
    return [Part(number, range(start, min(start + size, num_videos))) for number, start in enumerate(starts)]


def part_file(folder: Path, number: int, kind: str = "") -> Path:
    """Return where a part lies, or what of it is of a kind: ``part_00000.parquet``, ``part_00000.slots.parquet``."""
    return folder / f"part_{number:05d}{f'.{kind}' if kind else ''}.parquet"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written under another name and take its own when it is complete; its folder is made.

    Raises:
        PartError: It cannot be written.
    """
    try:
        with whole(path) as unfinished:
            write(unfinished)
    except OSError as error:
        raise PartError(f"{path} cannot be written: {error}; free space there, or make the folder writable") from error
