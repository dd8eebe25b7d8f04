"""The table of videos that a run reads, and what one row says."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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
