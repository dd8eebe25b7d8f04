"""Make a manifest: probe every video of a source in parallel with Ray Data, and list apart those that do not decode."""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import ray.data
from ray.data import TaskPoolStrategy
from rich.console import Console
from rich.progress import Progress

from tats_ray.cluster.runtime import start_ray
from tats_ray.data.listing import list_sources
from tats_ray.data.manifest import SCHEMA, Manifest, ManifestError, VideoRecord
from tats_ray.data.probe import probe_record
from tats_ray.data.source import DecodeError, VideoSource

VIDEOS_PER_BLOCK = 16  # a probe takes milliseconds to tens of them, the scheduling of a block about ten

SOURCE_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("member", pa.string()),
        ("offset", pa.int64()),
        ("num_bytes", pa.int64()),
        ("fps", pa.float64()),
        ("label", pa.int64()),
    ]
)
PROBED_SCHEMA = pa.schema([field.with_nullable(True) for field in SCHEMA] + [pa.field("reason", pa.string())])


@dataclass(frozen=True)
class IndexReport:
    """What indexing found and where it is written."""

    manifest_path: Path
    """The manifest, Parquet."""
    rejected_path: Path
    """The files that do not decode, CSV with the columns path and reason."""
    manifest: Manifest
    """The videos that decode, in the order of the source."""
    rejected: Sequence[tuple[str, str]]
    """(path, reason) of the others."""


def index_videos(
    source: str | os.PathLike[str], *, out: str | os.PathLike[str], workers: int | None = None
) -> IndexReport:
    """Probe the videos of a folder, list or table; write the manifest and, beside it, the table of rejected files.

    Args:
        source: What ``list_sources`` reads.
        out: The Parquet file to write; rejected files go to ``<stem>.rejected.csv`` beside it.
        workers: Most probes at once; as many as Ray has CPUs by default.

    Raises:
        ManifestError: The source is missing, empty or broken (found out before Ray starts), or no video decodes (then
            no manifest is written).
        ValueError: ``workers`` is not positive.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    out = Path(os.path.abspath(out))
    if out.is_dir():
        raise ValueError(f"out must be a file, such as {out / 'manifest.parquet'}; {out} is a folder")
    sources = list_sources(source)
    start_ray()
    records: list[VideoRecord] = []
    rejected: list[tuple[str, str]] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("probing", total=len(sources))
        for row in _probed(sources, workers=workers):
            reason = row.pop("reason")
            if reason is None:
                records.append(VideoRecord(**row))
            else:
                rejected.append((row["path"], reason))
            progress.advance(task)
    rejected_path = out.with_suffix(".rejected.csv")
    _write_rejected(rejected_path, rejected)
    if not records:
        path, reason = rejected[0]
        raise ManifestError(
            f"none of {len(rejected)} files decodes, see {rejected_path}; the first is {path}: {reason}"
        )
    manifest = Manifest.of(records)
    manifest.write(out)
    return IndexReport(out, rejected_path, manifest, rejected)


def probe_rows(table: pa.Table) -> pa.Table:
    """Probe the videos of a table of path and label; a file that does not decode becomes a row with a reason."""
    return pa.Table.from_pylist([_probe_row(**row) for row in table.to_pylist()], schema=PROBED_SCHEMA)


def _probe_row(label: int | None, **source: Any) -> dict[str, object]:
    try:
        return asdict(probe_record(VideoSource(**source), label=label))
    except DecodeError as error:  # returned, not raised: an exception would end the whole index
        return {"path": error.path, "reason": error.reason}


def _probed(sources: Sequence[tuple[VideoSource, int | None]], *, workers: int | None) -> Iterator[dict]:
    """Yield the probed rows in the order of the sources, as blocks are done."""
    rows = [{**asdict(source), "label": label} for source, label in sources]
    table = pa.Table.from_pylist(rows, schema=SOURCE_SCHEMA)
    # Cut by hand: Ray would make one task of a small table.
    blocks = [table.slice(start, VIDEOS_PER_BLOCK) for start in range(0, len(table), VIDEOS_PER_BLOCK)]
    dataset = ray.data.from_arrow(blocks).map_batches(
        probe_rows, batch_size=None, batch_format="pyarrow", num_cpus=1, compute=TaskPoolStrategy(workers)
    )
    dataset.context.execution_options.preserve_order = True  # the manifest's hash must not depend on timing
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from cast(pa.Table, batch).to_pylist()


def _write_rejected(path: Path, rejected: Sequence[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "reason"), *rejected])
