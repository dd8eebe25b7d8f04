"""Rows of cached codes: what a tokenizer made of the clips of some videos, once, for all runs that predict them.

``DIR/``
    ``codes.json``            which tokenizer, which clips; all that the rows are a function of
    ``part_00000.parquet``    a row for each clip, with its key; whole or absent

The key of a clip is its video, start, pace, crop and mirroring, and the tokenizer's content hash. Codes are of these
very pixels: whoever reads a row shows a model the clip that the row names, and nothing is encoded on the way.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tats_ray.data.clips import ClipConfig
from tats_ray.data.frames import Pace
from tats_ray.data.manifest import VideoRecord
from tats_ray.data.part_files import PartError, part_file, write_whole
from tats_ray.data.scaling import Crop
from tats_ray.data.views import Crops, segment_starts, view_crops

ABOUT = "codes.json"
VERSION = 1
SCHEMA = pa.schema(
    [
        pa.field("video", pa.string(), nullable=False),  # its id in the manifest
        pa.field("start", pa.float64(), nullable=False),  # frames of the video, or seconds where fps is given
        pa.field("stride", pa.int32()),
        pa.field("fps", pa.float64()),
        pa.field("crop", pa.list_(pa.int32(), 4), nullable=False),  # x, y, width, height
        pa.field("flip", pa.bool_(), nullable=False),
        pa.field("tokenizer", pa.string(), nullable=False),
        pa.field("codes", pa.list_(pa.int32())),  # null where the video did not decode
        pa.field("importance", pa.list_(pa.float16())),
        pa.field("reason", pa.string(), nullable=False),  # why there are no codes
    ]
)
GROUP = 16
"""Rows that are written, and read, together."""


class CodesError(PartError):
    """Cached codes cannot be read or used for a clip; the message says why, and the way out."""


@dataclass(frozen=True)
class Cut:
    """Which part of a video one clip is, at the pace of its cache."""

    start: float
    """Frames of the video, or seconds where the pace is given in frames a second."""
    crop: Crop
    flip: bool


@dataclass(frozen=True)
class Coded:
    """What was made of a clip."""

    codes: np.ndarray
    """int32 [tokens]."""
    importance: np.ndarray
    """float16 [tokens], finite."""


@dataclass(frozen=True)
class CodesAbout:
    """All that the rows of a cache are a function of, and how many parts they lie in."""

    tokenizer: str
    """Content hash."""
    levels: tuple[int, ...]
    """Of a code, by which its number is read."""
    tokens: int
    """Codes of one clip."""
    clip: Mapping[str, Any]
    """Frames, pace, size, and what becomes of short videos."""
    segments: int
    crops: int
    flips: bool
    manifest: str
    """Hash of the videos' table."""
    parts: int
    version: int = VERSION

    def write(self, folder: Path) -> None:
        """Write ``codes.json``, or see that the one that is there says the same.

        Raises:
            CodesError: It says something else: the folder holds codes of other clips or of another tokenizer.
            PartError: It cannot be written.
        """
        there = folder / ABOUT
        if there.exists():
            if differing := self._differs(CodesAbout.read(folder)):
                raise CodesError(
                    f"{folder} holds other codes: {'; '.join(differing)}. Give these another --out, or remove it"
                )
            return
        text = json.dumps(vars(self), indent=2)
        write_whole(there, lambda path: path.write_text(text))

    @classmethod
    def read(cls, folder: Path) -> "CodesAbout":
        """Read ``codes.json``.

        Raises:
            CodesError: There is none that can be read.
        """
        try:
            read = json.loads((folder / ABOUT).read_text())
            return cls(**{**read, "levels": tuple(read["levels"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CodesError(
                f"{folder} holds no codes ({error}); make them with pipelines/encode_clips.py --out {folder}"
            ) from error

    def _differs(self, other: "CodesAbout") -> list[str]:
        mine, theirs = json.loads(json.dumps(vars(self))), json.loads(json.dumps(vars(other)))
        return [f"{name} was {theirs[name]!r}, is {mine[name]!r}" for name in mine if mine[name] != theirs[name]]


def pixels_of(clip: ClipConfig) -> dict[str, Any]:
    """Return the settings of a clip that its pixels are a function of, start, crop and mirroring apart."""
    return clip.model_dump(include={"num_frames", "frame_stride", "fps", "crop_size", "short_videos"})


def cuts_of(record: VideoRecord, pace: Pace, *, segments: int, crops: Crops, flips: bool) -> list[Cut]:
    """Return the clips of a video that are encoded: start by start, crop by crop, then all of them mirrored."""
    squares = view_crops(record, crops=crops)
    starts = segment_starts(record, pace, segments=segments)
    plain = [Cut(float(start), crop, False) for start in starts for crop in squares]
    return plain + [Cut(cut.start, cut.crop, True) for cut in plain if flips]


def coded_row(video: str, cut: Cut, about: CodesAbout, coded: tuple[np.ndarray, np.ndarray] | str) -> dict[str, Any]:
    """Return a row: codes and importance of a clip, or the reason why there are none."""
    codes, importance = (None, None) if isinstance(coded, str) else coded
    crop = cut.crop
    return {
        "video": video,
        "start": cut.start,
        "stride": about.clip["frame_stride"],
        "fps": about.clip["fps"],
        "crop": [crop.x, crop.y, crop.width, crop.height],
        "flip": cut.flip,
        "tokenizer": about.tokenizer,
        "codes": codes,
        "importance": importance,
        "reason": coded if isinstance(coded, str) else "",
    }


def write_part(folder: Path, number: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a part, whole or not at all.

    Raises:
        PartError: It cannot be written.
    """
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    write_whole(part_file(folder, number), lambda path: pq.write_table(table, path, row_group_size=GROUP))
