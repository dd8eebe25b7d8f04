"""The table of videos that a run reads, and what one row says."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from tats_ray.data.order import Part
from tats_ray.data.places import PlaceError, read_bytes, settled, write_bytes
from tats_ray.data.source import VideoSource

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
        pa.field("member", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("num_bytes", pa.int64()),
        pa.field("start", pa.float64(), nullable=False),
        pa.field("times", pa.list_(pa.float64())),
        pa.field("content", pa.string()),
    ]
)


class ManifestError(Exception):
    """A manifest, or a source of videos to index, that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class VideoRecord:
    """One video, or a stretch of a long one: a row of the manifest."""

    id: str
    """First 16 hexadecimal digits of the SHA-1 of what tells the video from others: path, member, start."""
    path: str
    """Absolute path or URI of the file, of the tar shard that holds it, or of the folder of its frames."""
    label: int | None
    """Class index, where the source gave one."""
    num_frames: int
    """Frames that are presented."""
    fps: float
    """Frames per second, averaged over the video."""
    duration: float
    """``num_frames / fps``, in seconds."""
    width: int
    """Pixels of an upright frame with square pixels, horizontally."""
    height: int
    """Pixels of an upright frame with square pixels, vertically."""
    truth: str | None
    """Absolute path of the ground truth of a synthetic video (``<stem>.truth.npz`` beside it)."""
    member: str | None = None
    """Name within a tar shard."""
    offset: int | None = None
    """First byte within a tar shard."""
    num_bytes: int | None = None
    """Bytes within a tar shard."""
    start: float = 0.0
    """Seconds from the first frame of the file to the first frame of this stretch of it."""
    times: Sequence[float] | None = None
    """Seconds from ``start`` to each frame, where they are not evenly spaced; otherwise frame k is at k / fps."""
    content: str | None = None
    """SHA-256 of the bytes; of the original's, where the file is a transcode."""

    @property
    def source(self) -> VideoSource:
        """Where the bytes lie."""
        return VideoSource(self.path, self.member, self.offset, self.num_bytes, self.fps)


class WeightedManifest(BaseModel):
    """One of the manifests that a run mixes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    path: str
    """Manifest written by pipelines/index_videos.py, a path or a URI."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """How often each of its videos comes in an epoch: 2 is twice, 0.5 every second epoch."""


class Manifest:
    """A checked table of videos, in a fixed order.

    Example:
        >>> manifest = Manifest.read("videos.parquet")
        >>> manifest.record(0).num_frames
        48
    """

    def __init__(self, table: pa.Table, *, name: str = "the manifest", parts: tuple[Part, ...] | None = None) -> None:
        """Check a table of the columns of ``SCHEMA``; ``name`` stands for it in messages.

        Args:
            table: The videos.
            name: What it is called.
            parts: How often each stretch of its rows comes in an epoch; by default all come once.

        Raises:
            ManifestError: A column is missing, unknown or of another type, a value is missing, an id occurs twice,
                or there are no rows.
        """
        self.table = _checked(table, name=name)
        self.name = name
        self.parts = parts or (Part(name, len(self)),)

    @classmethod
    def of(cls, records: Iterable[VideoRecord]) -> "Manifest":
        """Collect records into a manifest, in their order."""
        return cls(pa.Table.from_pylist([asdict(record) for record in records], schema=SCHEMA))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Manifest":
        """Read and check a Parquet file, at a path or a URI.

        Raises:
            ManifestError: There is no such file, it is not Parquet, or its content is not a manifest.
        """
        place = settled(path)
        remedy = f"make one with: python pipelines/index_videos.py FOLDER_OR_LIST --out {path}"
        try:
            table = pq.ParquetFile(pa.BufferReader(read_bytes(place))).read()
        except FileNotFoundError:
            raise ManifestError(f"no such manifest file: {path}; {remedy}") from None
        except PlaceError as error:
            raise ManifestError(f"the manifest {path} cannot be read: {error}") from error
        except pa.ArrowException as error:
            raise ManifestError(f"{path} is not a Parquet file ({error}); {remedy}") from error
        return cls(table, name=os.fspath(path))

    @classmethod
    def read_all(cls, manifests: Sequence[WeightedManifest]) -> "Manifest":
        """Read manifests and lay them end to end; each is a part of its own weight.

        Raises:
            ManifestError: One of them cannot be read, or two hold the same video.
        """
        read = [cls.read(manifest.path) for manifest in manifests]
        parts = tuple(Part(given.path, len(one), given.weight) for given, one in zip(manifests, read, strict=True))
        holders: dict[str, str] = {}
        for part, one in zip(parts, read, strict=True):
            for row, video in enumerate(one.table["id"].to_pylist()):
                if video in holders:
                    raise ManifestError(
                        f"data.manifest: {one.record(row).source.name} is in {holders[video]} and in {part.name}; name "
                        f"each video once, and give its manifest a weight if it is to come more often"
                    )
                holders[video] = part.name
        return cls(pa.concat_tables([one.table for one in read]), name=", ".join(p.name for p in parts), parts=parts)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file, whole or not at all, to a path or a URI; its folder is made if need be.

        Raises:
            ManifestError: The URI cannot be written to.
        """
        content = pa.BufferOutputStream()
        pq.write_table(self.table, content)
        try:
            write_bytes(settled(path), content.getvalue().to_pybytes())
        except PlaceError as error:
            raise ManifestError(f"the manifest {path} cannot be written: {error}") from error

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the rows in their order, and of the weights where there are any, in hexadecimal."""
        digest = hashlib.sha256()
        for row in self.table.to_pylist():
            digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        if any(part.weight != 1 for part in self.parts) or len(self.parts) > 1:
            digest.update(json.dumps([[part.num_videos, part.weight] for part in self.parts]).encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return self.table.num_rows

    def record(self, index: int) -> VideoRecord:
        """Return the video of a row."""
        return VideoRecord(**self.table.slice(range(len(self))[index], 1).to_pylist()[0])

    def select(self, indices: Sequence[int] | np.ndarray) -> "Manifest":
        """Return the manifest of some rows, in the given order; each at most once.

        Raises:
            ValueError: Rows of a later part come before rows of an earlier one.
        """
        ends = np.cumsum([part.num_videos for part in self.parts])
        part_of = np.searchsorted(ends, np.asarray(indices), side="right")
        if (np.diff(part_of) < 0).any():
            raise ValueError(f"rows must be in the order of the {len(self.parts)} manifests that they are from")
        counts = np.bincount(part_of, minlength=len(self.parts)).tolist()
        parts = tuple(replace(part, num_videos=count) for part, count in zip(self.parts, counts, strict=True))
        return Manifest(self.table.take(pa.array(indices, pa.int64())), parts=parts)


def truth_path(path: str | os.PathLike[str]) -> Path:
    """Return where the ground truth of a synthetic video lies: ``<stem>.truth.npz`` beside it."""
    return Path(path).with_suffix(".truth.npz")


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
