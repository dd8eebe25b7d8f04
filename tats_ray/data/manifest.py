"""The table of videos that a run reads: what one row says, how a file is probed for it, and how sources are listed."""

import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tats_ray.data.decode import DecodeError, nominal_rate, open_video

# fmt: off
VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".h264", ".hevc", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".ts", ".webm", ".wmv",
)
# fmt: on

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.int64()),
        pa.field("num_frames", pa.int64(), nullable=False),
        pa.field("fps", pa.float64(), nullable=False),
        pa.field("duration", pa.float64(), nullable=False),
        pa.field("width", pa.int64(), nullable=False),
        pa.field("height", pa.int64(), nullable=False),
        pa.field("truth", pa.string()),
    ]
)


class ManifestError(Exception):
    """A manifest, or a source of videos to index, that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class VideoRecord:
    """One video: a row of the manifest."""

    id: str
    """First 16 hexadecimal digits of the SHA-1 of the absolute path."""
    path: str
    """Absolute path."""
    label: int | None
    """Class index, where the source gave one."""
    num_frames: int
    """Frames that are presented."""
    fps: float
    """Frames per second, averaged over the video."""
    duration: float
    """``num_frames / fps``, in seconds."""
    width: int
    """Pixels of a decoded frame, horizontally."""
    height: int
    """Pixels of a decoded frame, vertically."""
    truth: str | None
    """Absolute path of the ground truth of a synthetic video (``<stem>.truth.npz`` beside it)."""


class Manifest:
    """A checked table of videos, in a fixed order.

    Example:
        >>> manifest = Manifest.read("videos.parquet")
        >>> manifest.record(0).num_frames
        48
    """

    def __init__(self, table: pa.Table, *, name: str = "the manifest") -> None:
        """Check a table of the columns of ``SCHEMA``; ``name`` stands for it in messages.

        Raises:
            ManifestError: A column is missing, unknown or of another type, a value is missing, an id occurs twice,
                or there are no rows.
        """
        self.table = _checked(table, name=name)

    @classmethod
    def of(cls, records: Iterable[VideoRecord]) -> "Manifest":
        """Collect records into a manifest, in their order."""
        return cls(pa.Table.from_pylist([asdict(record) for record in records], schema=SCHEMA))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Manifest":
        """Read and check a Parquet file.

        Raises:
            ManifestError: There is no such file, it is not Parquet, or its content is not a manifest.
        """
        remedy = f"make one with: python pipelines/index_videos.py FOLDER_OR_LIST --out {path}"
        if not Path(path).is_file():
            raise ManifestError(f"no such manifest file: {path}; {remedy}")
        try:
            table = pq.ParquetFile(path).read()
        except pa.ArrowException as error:
            raise ManifestError(f"{path} is not a Parquet file ({error}); {remedy}") from error
        return cls(table, name=os.fspath(path))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file, whole or not at all; its folder is made if need be."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            pq.write_table(self.table, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the rows in their order, in hexadecimal."""
        digest = hashlib.sha256()
        for row in self.table.to_pylist():
            digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def __len__(self) -> int:
        return self.table.num_rows

    def record(self, index: int) -> VideoRecord:
        """Return the video of a row."""
        return VideoRecord(**self.table.slice(range(len(self))[index], 1).to_pylist()[0])

    def select(self, indices: Sequence[int] | np.ndarray) -> "Manifest":
        """Return the manifest of some rows, in the given order; each at most once."""
        return Manifest(self.table.take(pa.array(indices, pa.int64())))


def probe(path: str | os.PathLike[str]) -> dict[str, int | float]:
    """Measure a video: count its frames, time them, and decode the first to prove that it decodes.

    Returns:
        ``num_frames``, ``fps``, ``duration``, ``width`` and ``height`` as in ``VideoRecord``.

    Raises:
        DecodeError: The file cannot be opened, or gives no frame.
    """
    stamps, num_frames, first = [], 0, None
    with open_video(path) as (container, stream):
        rate, tick = nominal_rate(stream), stream.time_base
        for packet in container.demux(stream):
            if first is None:  # the packet that ends the stream is empty and makes the decoder give what it holds
                first = next(iter(packet.decode()), None)
            if packet.size and not packet.is_discard:  # an edit list discards packets: decoded, but never shown
                num_frames += 1
                stamps.append(packet.dts if packet.pts is None else packet.pts)
    if first is None:
        raise DecodeError(path, "no frame could be decoded")
    known = [stamp for stamp in stamps if stamp is not None]
    if tick is not None and len(known) > 1 and max(known) > min(known):
        rate = float((len(known) - 1) / ((max(known) - min(known)) * tick))
    return {
        "num_frames": num_frames,
        "fps": rate,
        "duration": num_frames / rate,
        "width": first.width,
        "height": first.height,
    }


def probe_record(path: str, *, label: int | None) -> VideoRecord:
    """Measure a video and make its row of the manifest.

    Raises:
        DecodeError: The file cannot be opened, or gives no frame.
    """
    fields: dict[str, Any] = probe(path)
    truth = truth_path(path)
    return VideoRecord(
        id=hashlib.sha1(os.fsencode(path)).hexdigest()[:16],
        path=path,
        label=label,
        truth=str(truth) if truth.exists() else None,
        **fields,
    )


def truth_path(path: str | os.PathLike[str]) -> Path:
    """Return where the ground truth of a synthetic video lies: ``<stem>.truth.npz`` beside it."""
    return Path(path).with_suffix(".truth.npz")


def list_sources(source: str | os.PathLike[str]) -> list[tuple[str, int | None]]:
    """List the videos of a folder, a list or a table as (absolute path, label or ``None``).

    A folder is searched with all below it, by suffix, in alphabetical order and without hidden files. A list is a text
    file of one video a line, optionally followed by a space, a comma or a tab and an integer label. A table is a CSV
    file with a header, or a Parquet file, with a column ``path`` and perhaps one ``label``. Relative paths are relative
    to the folder of the list or table. A video file stands for itself.

    Raises:
        ManifestError: The source is missing, empty or broken, or names a video twice.
    """
    source = Path(os.path.abspath(source))
    if not source.exists():
        raise ManifestError(f"no such folder, list or video: {source}")
    if source.is_dir():
        rows = [(path, None) for path in _videos_below(source)]
        if not rows:
            raise ManifestError(f"no videos found in the folder {source}; looked for {' '.join(VIDEO_SUFFIXES)}")
    elif source.suffix.lower() in VIDEO_SUFFIXES:
        rows = [(source.name, None)]
    elif source.suffix.lower() == ".parquet":
        rows = _parquet_rows(source)
    else:
        rows = _text_rows(source)
    if not rows:
        raise ManifestError(f"{source} names no video")
    listed = [(os.path.abspath(source.parent / path), label) for path, label in rows]
    path, count = Counter(path for path, _ in listed).most_common(1)[0]
    if count > 1:
        raise ManifestError(f"{source} names a video {count} times: {path}; name each once")
    return listed


def _videos_below(folder: Path) -> Iterator[Path]:
    """Find videos by suffix, in alphabetical order, following links to files and folders but never in a circle."""
    visited = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(parent)
        if place in visited:
            folders.clear()
            continue
        visited.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES:
                yield Path(parent, name)


def _parquet_rows(source: Path) -> list[tuple[str, int | None]]:
    try:
        table = pq.ParquetFile(source).read()
    except pa.ArrowException as error:
        raise ManifestError(f"{source} is not a Parquet file: {error}") from error
    if "path" not in table.column_names:
        raise ManifestError(f"{source} needs a column 'path', it has {table.column_names}")
    labels = table["label"] if "label" in table.column_names else pa.nulls(len(table))
    try:
        columns = table["path"].cast(pa.string()).to_pylist(), labels.cast(pa.int64()).to_pylist()
    except pa.ArrowException as error:
        raise ManifestError(f"{source} needs text in 'path' and integers in 'label': {error}") from error
    if not all(columns[0]):
        raise ManifestError(f"{source} has an empty 'path' in row {[bool(path) for path in columns[0]].index(False)}")
    return list(zip(*columns, strict=True))


def _text_rows(source: Path) -> list[tuple[str, int | None]]:
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ManifestError(f"{source} is neither a video by its suffix nor a list in UTF-8: {error}") from error
    header = next(csv.reader(lines[:1]), [])
    if "path" in header:
        rows = csv.DictReader(lines, restval="")
        return [_labelled(source, rows.line_num, row["path"], row.get("label") or None) for row in rows]
    return [_list_row(source, number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def _list_row(source: Path, number: int, line: str) -> tuple[str, int | None]:
    """Split a line of a VideoMAE list; a path may contain blanks and commas, so only the last field can be a label."""
    found = re.fullmatch(r"(?P<path>.*?)\s*[\s,]\s*(?P<label>[+-]?\d+)", line)
    path, label = (found["path"], found["label"]) if found else (line, None)
    if len(path) > 1 and path[0] == path[-1] == '"':  # as a CSV writer quotes a path with a comma
        path = path[1:-1].replace('""', '"')
    return _labelled(source, number, path, label)


def _labelled(source: Path, number: int, path: str, label: str | None) -> tuple[str, int | None]:
    if not path.strip() or path.strip().lstrip("+-").isdigit():
        raise ManifestError(f"{source}, line {number}: no path; a line is a path and perhaps an integer label")
    try:
        return path, None if label is None else int(label)
    except ValueError:
        raise ManifestError(f"{source}, line {number}: the label must be an integer, got {label!r}") from None


def _checked(table: pa.Table, *, name: str) -> pa.Table:
    """Return the table with exactly the columns of the schema, or say what is wrong with it."""
    remedy = "make it anew with pipelines/index_videos.py"
    if set(table.column_names) != set(SCHEMA.names):
        raise ManifestError(f"{name} must have the columns {SCHEMA.names}, it has {table.column_names}; {remedy}")
    for field in SCHEMA:
        if table[field.name].type != field.type:
            found = table[field.name].type
            raise ManifestError(f"{name}: the column {field.name!r} must be {field.type}, it is {found}; {remedy}")
        if not field.nullable and table[field.name].null_count:
            raise ManifestError(f"{name}: the column {field.name!r} lacks values; {remedy}")
    if not table.num_rows:
        raise ManifestError(f"{name} has no rows; {remedy}")
    repeated, count = Counter(table["id"].to_pylist()).most_common(1)[0]
    if count > 1:
        raise ManifestError(f"{name}: the id {repeated!r} occurs {count} times; {remedy}")
    return table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
