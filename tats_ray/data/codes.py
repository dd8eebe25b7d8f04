"""Cached codes: what a tokenizer made of the clips of some videos, once, for all runs that predict them.

``DIR/``
    ``codes.json``            which tokenizer, which clips; all that the rows are a function of
    ``part_00000.parquet``    a row for each clip, with its key; whole or absent

The key of a clip is its video, start, pace, crop and mirroring, and the tokenizer's content hash. Codes are of these
very pixels: whoever reads a row shows a model the clip that the row names, and nothing is encoded on the way.
"""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tats_ray.data.clips import ClipConfig
from tats_ray.data.frames import Pace
from tats_ray.data.manifest import VideoRecord
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
KEY = ("video", "start", "crop", "flip", "tokenizer", "reason")
_GROUP = 16
"""Rows that are read together."""
_GROUPS_KEPT = 64


class CodesError(Exception):
    """Cached codes cannot be written, read or used for a clip; the message says why, and the way out."""


@dataclass(frozen=True)
class Cut:
    """Which part of a video one clip is, at the pace of its cache."""

    start: float
    """Frames of the video, or seconds where the pace is given in frames a second."""
    crop: Crop
    flip: bool


@dataclass(frozen=True)
class CodedClip:
    """A clip that was encoded."""

    cut: Cut
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
        """
        there = folder / ABOUT
        if there.exists():
            if differing := self._differs(CodesAbout.read(folder)):
                raise CodesError(
                    f"{folder} holds other codes: {'; '.join(differing)}. Give these another --out, or remove it"
                )
            return
        text = json.dumps(vars(self), indent=2)
        _whole(there, lambda path: path.write_text(text))

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


def part_file(folder: Path, number: int) -> Path:
    """Return where a part lies."""
    return folder / f"part_{number:05d}.parquet"


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
        CodesError: It cannot be written.
    """
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    _whole(part_file(folder, number), lambda path: pq.write_table(table, path, row_group_size=_GROUP))


class CodeCache:
    """The codes of a folder, read row by row as they are asked for.

    Example:
        >>> cache = CodeCache.open(Path("codes"), tokenizer=digest, clip=run.data)
        >>> [cut] = cache.cuts(record)
        >>> coded = cache.read(record, cut)
    """

    def __init__(self, folder: Path, about: CodesAbout) -> None:
        """Index the rows of a folder that is known to be complete; :meth:`open` checks that."""
        self.folder = folder
        self.about = about
        self._places: dict[str, dict[Cut, tuple[int, int]]] = {}
        self._lost: dict[str, str] = {}
        for number in range(about.parts):
            self._index(number)
        self._group = lru_cache(_GROUPS_KEPT)(self._read_group)

    @classmethod
    def open(cls, folder: Path, *, clip: ClipConfig, tokenizer: str | None = None) -> "CodeCache":
        """Open a folder for a run.

        Args:
            folder: What pipelines/encode_clips.py wrote.
            clip: The clips of the run.
            tokenizer: Content hash of the tokenizer that the run names, if it names any.

        Raises:
            CodesError: The codes are of another tokenizer or of other clips, or a part is missing or damaged.
        """
        about = CodesAbout.read(folder)
        if about.version != VERSION:
            raise CodesError(f"{folder} is of version {about.version}, this is {VERSION}; encode the clips again")
        if tokenizer is not None and tokenizer != about.tokenizer:
            raise CodesError(
                f"the codes of {folder} are of the tokenizer {about.tokenizer[:12]}, not of {tokenizer[:12]}; name the "
                f"tokenizer that made them, or encode the clips again"
            )
        wanted = pixels_of(clip)
        if differing := [
            f"data.{name} is {wanted[name]!r}, was {about.clip[name]!r}"
            for name in wanted
            if wanted[name] != about.clip[name]
        ]:
            raise CodesError(f"the codes of {folder} are of other clips: {'; '.join(differing)}; encode these clips")
        missing = [number for number in range(about.parts) if not part_file(folder, number).exists()]
        if missing:
            raise CodesError(
                f"{len(missing)} of {about.parts} parts are missing in {folder}, the first is "
                f"{part_file(folder, missing[0]).name}; the same pipelines/encode_clips.py makes the missing ones"
            )
        return cls(folder, about)

    @property
    def lost(self) -> Mapping[str, str]:
        """Ids of the videos that could not be decoded, and why."""
        return self._lost

    @property
    def num_videos(self) -> int:
        """Videos with codes."""
        return len(self._places)

    @property
    def num_clips(self) -> int:
        """Clips with codes."""
        return sum(map(len, self._places.values()))

    def cuts(self, record: VideoRecord) -> Sequence[Cut]:
        """Return the clips of a video that are there, in order.

        Raises:
            CodesError: The video has no rows, or did not decode when it was to be encoded.
        """
        return list(self._of(record))

    def read(self, record: VideoRecord, cut: Cut) -> CodedClip:
        """Return what was made of a clip.

        Raises:
            CodesError: There is no row of this very clip, or it does not hold what it should.
        """
        places = self._of(record)
        if cut not in places:
            near = min(places, key=lambda one: _distance(one, cut))
            raise CodesError(
                f"{self.folder} has no codes of {record.source.name} for {cut}; the nearest is {near}. Codes are of "
                f"the pixels that were encoded, so take one of its clips, or encode this one"
            )
        number, row = places[cut]
        found = self._group(number, row // _GROUP)[row % _GROUP]
        codes, importance = np.asarray(found["codes"], np.int32), np.asarray(found["importance"], np.float16)
        tokens, size = self.about.tokens, int(np.prod(self.about.levels))
        fits = len(codes) == len(importance) == tokens and 0 <= codes.min() <= codes.max() < size
        if not fits or not np.isfinite(importance).all():
            raise CodesError(
                f"{part_file(self.folder, number)} is damaged: row {row} does not hold {tokens} codes below {size} and "
                f"as many finite importances; remove the file and encode the clips again, which makes the missing part"
            )
        return CodedClip(cut, codes, importance)

    def _of(self, record: VideoRecord) -> dict[Cut, tuple[int, int]]:
        if record.id in self._lost:
            raise CodesError(f"{record.source.name} could not be encoded: {self._lost[record.id]}")
        if record.id not in self._places:
            raise CodesError(
                f"{self.folder} has no codes of {record.source.name} (id {record.id}); encode the manifest it is in"
            )
        return self._places[record.id]

    def _index(self, number: int) -> None:
        file = part_file(self.folder, number)
        try:
            rows = pq.read_table(file, columns=list(KEY)).to_pylist()
        except (OSError, pa.ArrowException, KeyError) as error:
            raise CodesError(f"{file} cannot be read ({error}); remove it and encode the clips again") from error
        for place, row in enumerate(rows):
            if row["tokenizer"] != self.about.tokenizer:
                raise CodesError(
                    f"{file} holds codes of the tokenizer {row['tokenizer'][:12]} among those of "
                    f"{self.about.tokenizer[:12]}; remove it and encode the clips again"
                )
            if row["reason"]:
                self._lost[row["video"]] = row["reason"]
            else:
                cut = Cut(row["start"], Crop(*row["crop"]), row["flip"])
                self._places.setdefault(row["video"], {})[cut] = (number, place)

    def _read_group(self, number: int, group: int) -> list[dict[str, Any]]:
        file = part_file(self.folder, number)
        try:
            return pq.ParquetFile(file).read_row_group(group, columns=["codes", "importance"]).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise CodesError(f"{file} cannot be read ({error}); remove it and encode the clips again") from error


def _distance(one: Cut, other: Cut) -> tuple[float, int, bool]:
    sides = zip(vars(one.crop).values(), vars(other.crop).values(), strict=True)
    return abs(one.start - other.start), sum(abs(a - b) for a, b in sides), one.flip != other.flip


def _whole(path: Path, write: Any) -> None:
    """Have a file written under another name and take its own when it is complete."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(unfinished)
        unfinished.replace(path)
    except OSError as error:
        raise CodesError(f"{path} cannot be written: {error}; free space there, or make the folder writable") from error
    finally:
        unfinished.unlink(missing_ok=True)
