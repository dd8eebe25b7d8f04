"""Features on disk: a folder for each way of looking at a manifest's views, cut into parts that are whole or absent.

``<key>/``
    ``features.json``               what they are features of
    ``part_00000.slots.parquet``    row, view, held, reason, means of the time slots as float32
    ``part_00000.tokens.parquet``   row, view, tokens as float16; only where they are asked for

A part holds fixed rows of the manifest, so an extraction that was stopped goes on with the parts that are missing.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tats_ray.data.manifest import Manifest
from tats_ray.data.part_files import Part, PartError, part_file, write_whole
from tats_ray.mirror import have, send
from tats_ray.probing.decoding import Views
from tats_ray.probing.work import Work

_SHAPE = b"shape"  # of one view's features, in a file's metadata
ABOUT = "features.json"
VERSION = 1
"""Of what features are; another one makes all be extracted anew."""


class FeatureError(PartError):
    """Features cannot be read, or there are none; the message says why, and the way out."""


@dataclass(frozen=True)
class Reading:
    """One way of looking at the same decoded views."""

    folder: Path
    """Where its parts lie; named by all that the features are a function of."""
    identity: str
    """All that, as JSON."""
    token_ratio: float
    """Share of the tokens that the encoder sees."""
    order: str
    """In which order frames are shown."""
    with_tokens: bool
    """Whether every token is kept beside the means of the time slots."""

    def files(self, part: Part) -> list[Path]:
        """Return the files of a part."""
        kinds = ("slots", "tokens") if self.with_tokens else ("slots",)
        return [part_file(self.folder, part.number, kind) for kind in kinds]


@dataclass(frozen=True, kw_only=True)
class Extraction(Work):
    """All that is to be extracted from one manifest."""

    readings: tuple[Reading, ...]
    seed: int

    def reading(self, token_ratio: float, order: str) -> Reading:
        """Return one of the readings."""
        return next(one for one in self.readings if (one.token_ratio, one.order) == (token_ratio, order))

    def files(self, part: Part) -> list[Path]:
        """Return the files of a part, for all readings."""
        return [file for reading in self.readings for file in reading.files(part)]

    def unread(self, part: Part) -> list[Reading]:
        """Return the readings of which a part's file is missing."""
        return [reading for reading in self.readings if not all(have(file) for file in reading.files(part))]


@dataclass(frozen=True)
class Failure:
    """A video that gave no view."""

    row: int
    """Of its manifest."""
    path: str
    reason: str


@dataclass(frozen=True)
class Features:
    """The features of a manifest's views, by video and view."""

    slots: np.ndarray
    """float32 [views, time, dim]."""
    video_idx: np.ndarray
    """int64 [views]: the manifest's row."""
    failures: Sequence[Failure]
    """Videos without a view."""
    num_held: int
    """Videos shorter than a view."""


def identified(root: Path, identity: Mapping[str, object]) -> tuple[Path, str]:
    """Return the folder of features that are a function of ``identity`` alone, and that as JSON."""
    text = json.dumps({"version": VERSION, **identity}, sort_keys=True, indent=2)
    return root / hashlib.sha256(text.encode()).hexdigest()[:16], text


def write_part(reading: Reading, part: Part, views: Sequence[Views], features: Sequence[np.ndarray]) -> None:
    """Write a part's files, whole or not at all; one that is there already is left.

    Args:
        reading: How the views were looked at.
        part: Which videos.
        views: What became of each.
        features: For each of ``reading.files(part)`` those of all views that were decoded, ``[views, any, dim]``.

    Raises:
        PartError: One cannot be written.
    """
    if not (reading.folder / ABOUT).exists():
        write_whole(reading.folder / ABOUT, lambda path: path.write_text(reading.identity))
        send(reading.folder / ABOUT)
    count = [1 if found.video is None else len(found.video) for found in views]
    video = [number for number, times in enumerate(count) for _ in range(times)]
    view = np.concatenate([[-1] if found.video is None else np.arange(len(found.video)) for found in views])
    columns = {
        "row": pa.array([part.rows[number] for number in video], pa.int64()),
        "view": pa.array(view.tolist(), pa.int64()),
        "held": pa.array([views[number].held for number in video], pa.bool_()),
        "reason": pa.array([views[number].reason for number in video], pa.string()),
    }
    for file, values in zip(reading.files(part), features, strict=True):
        if not file.exists():
            filled = np.zeros((len(view), *values.shape[1:]), values.dtype)
            filled[view >= 0] = values
            lists = pa.FixedSizeListArray.from_arrays(pa.array(filled.ravel()), int(np.prod(values.shape[1:])))
            table = pa.table({**columns, "features": lists})
            table = table.replace_schema_metadata({_SHAPE: " ".join(map(str, values.shape[1:]))})
            write_whole(file, partial(pq.write_table, table, compression="none"))
            send(file)


def read_features(extraction: Extraction, reading: Reading, manifest: Manifest) -> Features:
    """Read all parts of a reading, and count: each video once, with all of its views or with a reason.

    Raises:
        FeatureError: A part is missing or damaged, or does not hold what it should; or no video was decoded.
    """
    paths = manifest.table["path"]
    slots, rows, failures, held = [], [], [], 0
    for part in extraction.parts():
        table, features = _read(reading.files(part)[0], part, extraction.layout.num_views)
        row = table["row"].to_numpy()
        reasons = zip(row.tolist(), table["reason"].to_pylist(), strict=True)
        failures += [Failure(number, paths[number].as_py(), reason) for number, reason in reasons if reason]
        held += len({number for number, short in zip(row.tolist(), table["held"].to_pylist(), strict=True) if short})
        rows.append(row[table["view"].to_numpy() >= 0])
        slots.append(features)
    if not any(map(len, slots)):
        raise FeatureError(
            f"none of the {len(manifest)} videos of {manifest.name} could be decoded; the first is {failures[0].path}: "
            f"{failures[0].reason}"
        )
    return Features(np.concatenate(slots), np.concatenate(rows), failures, held)


def read_tokens(extraction: Extraction, reading: Reading) -> np.ndarray:
    """Read every token of all views, in the order of :func:`read_features`: float16 ``[views, kept, dim]``.

    Raises:
        FeatureError: As :func:`read_features` does.
    """
    files = [(part, reading.files(part)[1]) for part in extraction.parts()]
    first = _read(files[0][1], files[0][0], extraction.layout.num_views)[1]
    every = np.empty((extraction.num_videos * extraction.layout.num_views, *first.shape[1:]), first.dtype)
    filled = 0
    for part, file in files:  # straight into place: parts and the whole together would take twice the memory
        features = _read(file, part, extraction.layout.num_views)[1]
        every[filled : filled + len(features)] = features
        filled += len(features)
    return every[:filled]


def _read(file: Path, part: Part, num_views: int) -> tuple[pa.Table, np.ndarray]:
    remedy = f"remove {file} and evaluate again: it is extracted anew"
    try:
        have(file)
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise FeatureError(f"features {file} cannot be read ({error}); {remedy}") from error
    counted = list(zip(table["row"].to_pylist(), table["view"].to_pylist(), strict=True))
    failed = {row for row, view in counted if view < 0}
    wanted = [(row, view) for row in part.rows for view in ([-1] if row in failed else range(num_views))]
    if counted != wanted:
        raise FeatureError(f"features {file} do not hold each view of its videos once; {remedy}")
    shape = [int(size) for size in (table.schema.metadata or {})[_SHAPE].split()]
    features = table["features"].combine_chunks().flatten().to_numpy().reshape(-1, *shape)
    return table, features[table["view"].to_numpy() >= 0]
