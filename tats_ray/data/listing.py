"""Which videos a source names: a folder, shards, folders of frames, a list, a table or a file; by path or URI."""

import csv
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from tats_ray.data.manifest import ManifestError
from tats_ray.data.places import PlaceError, exists, is_folder, parent, read_bytes, settled, walked
from tats_ray.data.shards import VIDEO_SUFFIXES, is_shard, is_video, list_shard
from tats_ray.data.source import VideoSource
from tats_ray.data.splits.official import OfficialSplit
from tats_ray.data.splits.split import FoundSplit, LabelledVideo, find_videos

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
SHARDS_AT_ONCE = 16  # reading headers waits for the disk or the network, not for a core

Listed = list[tuple[VideoSource, int | None]]

_logger = logging.getLogger(__name__)


def list_sources(source: str | os.PathLike[str], *, fps: float | None = None) -> Listed:
    """List the videos of a source, each with its label or ``None``; paths are absolute, URIs stay as they are.

    A folder is searched with all below it, in alphabetical order and without hidden files. It holds either videos,
    known by their suffix; or ``.tar`` shards of videos and labels (:func:`list_shard`); or folders of JPEG or PNG
    frames and nothing else, one a video. The first of these that it holds is taken.

    A list is a text file of one video a line, optionally followed by a space, a comma or a tab and an integer label. A
    table is a CSV file with a header, or a Parquet file, with a column ``path`` and perhaps one ``label``. Both may
    name shards and folders of frames too. Relative paths are relative to the folder of the list or table. A video or a
    shard stands for itself.

    Args:
        source: A path, or a URI that fsspec knows.
        fps: Frames per second of folders of frames.

    Raises:
        ManifestError: The source is missing, empty or broken, names a video twice, or lacks ``fps`` for its frames.
        ValueError: ``fps`` is not positive, or there are no folders of frames.
    """
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"fps must be a positive number of frames a second, got {fps:g}")
    place = settled(source)
    try:
        listed = _in_folder(place, fps) if is_folder(place) else _in_file(place, fps)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ManifestError(f"no such folder, list or video: {error.filename}") from None
    except PlaceError as error:
        raise ManifestError(str(error)) from error
    if not listed:
        raise ManifestError(f"{place} names no video")
    name, count = Counter(video.name for video, _ in listed).most_common(1)[0]
    if count > 1:
        raise ManifestError(f"{place} names a video {count} times: {name}; name each once")
    if fps is not None and not any(video.fps for video, _ in listed):
        raise ValueError(
            f"fps={fps:g} is for folders of frames, and {place} holds videos, which know their own; leave it out"
        )
    return listed


def list_videos(
    source: str | os.PathLike[str], *, fps: float | None = None, split: OfficialSplit | None = None
) -> FoundSplit:
    """List the videos of a source as :func:`list_sources` does; those of a split in its order, with its labels.

    Args:
        source: What ``list_sources`` reads; labels that it gives are not those of a split, and are left aside.
        fps: Frames per second of folders of frames.
        split: What to take of the source; all by default.

    Raises:
        ManifestError: The source or the split is missing, empty or broken, or the source holds no video of the split.
        ValueError: ``fps`` is not positive, or there are no folders of frames.
    """
    if split is None:
        return FoundSplit([LabelledVideo(video, label) for video, label in list_sources(source, fps=fps)], missing=[])
    wanted = split.read()
    listed = [video for video, _ in list_sources(source, fps=fps)]
    found = find_videos(wanted, listed, folder=os.fspath(source))
    if not found.videos:
        name, reason = found.missing[0]
        raise ManifestError(
            f"{source} holds none of the {len(wanted.rows)} rows of {split.place}; of the first, {name}: {reason}"
        )
    return found


def _in_folder(folder: str, fps: float | None) -> Listed:
    videos: list[str] = []
    shards: list[str] = []
    frames: list[str] = []
    for place, folders, files in walked(folder):
        videos += [f"{place}/{name}" for name in files if is_video(name)]
        shards += [f"{place}/{name}" for name in files if is_shard(name)]
        if files and not folders and all(name.lower().endswith(IMAGE_SUFFIXES) for name in files):
            frames.append(place)
    kinds = {"videos": videos, "tar shards": shards, "folders of images": frames}
    held = [f"{len(places)} {kind}" for kind, places in kinds.items() if places]
    if len(held) > 1:
        _logger.warning("%s holds %s: the %s are taken", folder, ", ".join(held), held[0])
    if videos:
        return [(VideoSource(video), None) for video in videos]
    if shards:
        return _entries([(shard, None) for shard in shards], fps)
    if frames:
        return [(_frames(place, fps), None) for place in frames]
    raise ManifestError(
        f"no videos found in the folder {folder}; looked for {' '.join(VIDEO_SUFFIXES)}, for .tar shards, and for "
        f"folders that hold {' '.join(IMAGE_SUFFIXES)} alone"
    )


def _in_file(file: str, fps: float | None) -> Listed:
    if is_video(file):
        if not exists(file):
            raise FileNotFoundError(None, None, file)
        return [(VideoSource(file), None)]
    if is_shard(file):
        return list_shard(file)
    content = read_bytes(file)
    rows = _parquet_rows(file, content) if file.lower().endswith(".parquet") else _text_rows(file, content)
    return _entries([(settled(path, folder=parent(file)), label) for path, label in rows], fps)


def _entries(rows: Sequence[tuple[str, int | None]], fps: float | None) -> Listed:
    """Open the shards among the rows of a list; a label of the row is that of all members without one of their own."""
    shards = [place for place, _ in rows if is_shard(place)]
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        members = dict(zip(shards, pool.map(list_shard, shards), strict=True))
    listed: Listed = []
    for place, label in rows:
        if place in members:
            listed += [(video, label if own is None else own) for video, own in members[place]]
        elif not is_video(place) and is_folder(place):
            listed.append((_frames(place, fps), label))
        else:
            listed.append((VideoSource(place), label))
    return listed


def _frames(folder: str, fps: float | None) -> VideoSource:
    if fps is None:
        raise ManifestError(f"{folder} is a folder of frames; say how many frames a second they are with --fps")
    return VideoSource(folder, fps=fps)


def _parquet_rows(source: str, content: bytes) -> list[tuple[str, int | None]]:
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
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


def _text_rows(source: str, content: bytes) -> list[tuple[str, int | None]]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ManifestError(f"{source} is neither a video by its suffix nor a list in UTF-8: {error}") from error
    header = next(csv.reader(lines[:1]), [])
    if "path" in header:
        rows = csv.DictReader(lines, restval="")
        return [_labelled(source, rows.line_num, row["path"], row.get("label") or None) for row in rows]
    return [_list_row(source, number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def _list_row(source: str, number: int, line: str) -> tuple[str, int | None]:
    """Split a line of a VideoMAE list; a path may contain blanks and commas, so only the last field can be a label."""
    found = re.fullmatch(r"(?P<path>.*?)\s*[\s,]\s*(?P<label>[+-]?\d+)", line)
    path, label = (found["path"], found["label"]) if found else (line, None)
    if len(path) > 1 and path[0] == path[-1] == '"':  # as a CSV writer quotes a path with a comma
        path = path[1:-1].replace('""', '"')
    return _labelled(source, number, path, label)


def _labelled(source: str, number: int, path: str, label: str | None) -> tuple[str, int | None]:
    if not path.strip() or path.strip().lstrip("+-").isdigit():
        raise ManifestError(f"{source}, line {number}: no path; a line is a path and perhaps an integer label")
    try:
        return path, None if label is None else int(label)
    except ValueError:
        raise ManifestError(f"{source}, line {number}: the label must be an integer, got {label!r}") from None
