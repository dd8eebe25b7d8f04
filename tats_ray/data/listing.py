"""Which videos a source names: a folder, a list, a table or a file."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tats_ray.data.manifest import ManifestError
from tats_ray.data.source import VideoSource

# fmt: off
VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".h264", ".hevc", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".ts", ".webm", ".wmv",
)
# fmt: on


def list_sources(source: str | os.PathLike[str]) -> list[tuple[VideoSource, int | None]]:
    """List the videos of a folder, a list or a table, each with its label or ``None``; paths are absolute.

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
    return [(VideoSource(path), label) for path, label in listed]


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
