"""Make a manifest: probe every video of a source in parallel with Ray Data, and list apart those that do not decode."""

import csv
import fcntl
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
import ray
import ray.data
from ray.data import TaskPoolStrategy
from rich.console import Console
from rich.progress import Progress

from tats_ray.cluster.runtime import start_ray
from tats_ray.data.guard import GuardConfig, GuardedDecoder
from tats_ray.data.layout import check_apart, transcode_targets
from tats_ray.data.listing import list_videos
from tats_ray.data.manifest import SCHEMA, Manifest, ManifestError, VideoRecord
from tats_ray.data.places import is_folder, is_uri, parent, settled, write_bytes
from tats_ray.data.probe import probe_record, verify
from tats_ray.data.source import DecodeError, VideoSource
from tats_ray.data.splits.official import OfficialSplit
from tats_ray.data.splits.split import LabelledVideo
from tats_ray.data.transcode import TranscodeSettings, partial_path, transcode
from tats_ray.data.windows import check_window, cut, windows

Depth = Literal["quick", "every frame"]

MOST_PER_BLOCK = 16  # a probe takes milliseconds to tens of them, the scheduling of a block about ten
BLOCKS_PER_CPU = 4  # at least, so that no CPU is left alone with many long videos at the end

PATIENCE_SECONDS = 600.0  # until a video counts as hanging: a quick probe may read all of it over a slow network,
PIXELS_PER_SECOND = 4e6  # and the slowest core decodes and encodes so much

SOURCE_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("member", pa.string()),
        ("offset", pa.int64()),
        ("num_bytes", pa.int64()),
        ("fps", pa.float64()),
        ("target", pa.string()),
    ]
)
PROBED_SCHEMA = pa.schema([column.with_nullable(True) for column in SCHEMA] + [pa.field("reason", pa.string())])


@dataclass(frozen=True)
class Transcoding:
    """That a manifest is to name transcodes, and which."""

    folder: str | os.PathLike[str]
    """Where they are written, laid out as the sources are; all nodes of a cluster must see it."""
    settings: TranscodeSettings = field(default_factory=TranscodeSettings)
    """How they are written."""


@dataclass(frozen=True)
class IndexReport:
    """What indexing found and where it is written."""

    manifest_path: str
    """The manifest, Parquet; a path or a URI."""
    rejected_path: str
    """The videos that are not in the manifest, CSV with the columns path and reason; a path or a URI."""
    manifest: Manifest
    """The videos that decode, or their windows, in the order of the source."""
    rejected: Sequence[tuple[str, str]]
    """(path, reason) of those that do not decode; before them (name, reason) of the ones that a split lists in vain."""
    num_videos: int
    """Videos that decode."""
    num_repeated: int
    """Videos among them whose bytes are those of one before."""
    num_missing: int = 0
    """Rows of the split, the first among the rejected, that the source does not hold."""
    classes_path: str | None = None
    """The class names of the split, a text file of one a line, the first for label 0; a path or a URI."""


def index_videos(
    source: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    workers: int | None = None,
    fps: float | None = None,
    window: float | None = None,
    depth: Depth = "quick",
    transcoding: Transcoding | None = None,
    split: OfficialSplit | None = None,
) -> IndexReport:
    """Probe the videos of a source; write the manifest and, beside it, the table of rejected files.

    Args:
        source: What ``list_sources`` reads.
        out: The Parquet file to write, a path or a URI; rejected files go to ``<stem>.rejected.csv`` beside it, the
            class names of a split to ``<stem>.classes.txt``.
        workers: Most videos at once; as many as Ray has CPUs by default.
        fps: Frames per second of folders of frames.
        window: Cut videos into windows of so many seconds, each a row of its own.
        depth: ``quick`` reads every file and decodes its first frame; ``every frame`` decodes all, and refuses damaged
            ones.
        transcoding: Write the videos anew, and have the manifest name what was written. What is there already, of the
            same bytes and settings, is kept.
        split: Take the videos that a split file lists, in its order and with its labels.

    Raises:
        ManifestError: The source or the split is missing, empty or broken, or they have no video in common (found out
            before Ray starts), or no video decodes (then no manifest is written).
        ValueError: An argument breaks a rule.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if window is not None:
        check_window(window)
        if split is not None:
            raise ValueError(f"window={window:g} would make other rows than the split lists; leave one of them out")
    out = settled(out)
    if not is_uri(out) and os.path.isdir(out):
        raise ValueError(f"out must be a file, such as {os.path.join(out, 'manifest.parquet')}; {out} is a folder")
    listed = list_videos(source, fps=fps, split=split)
    sources = list(dict.fromkeys(video.source for video in listed.videos))
    targets = _targets(sources, settled(source), transcoding)
    probed: dict[VideoSource, VideoRecord | tuple[str, str]] = {}
    with nullcontext() if transcoding is None else _alone(Path(transcoding.folder)):
        start_ray()
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("probing" if transcoding is None else "transcoding", total=len(sources))
            rows = _probed(sources, targets, workers=workers, depth=depth, transcoding=transcoding)
            for video, row in zip(sources, rows, strict=True):
                reason = row.pop("reason")
                probed[video] = VideoRecord(**row) if reason is None else (row["path"], reason)
                progress.advance(task)
    records, undecoded = _labelled(listed.videos, probed)
    rejected = [*listed.missing, *undecoded]
    rejected_path = os.path.splitext(out)[0] + ".rejected.csv"
    _write_rejected(rejected_path, rejected)
    if not records:
        path, reason = undecoded[0]
        raise ManifestError(
            f"none of {len(undecoded)} files decodes, see {rejected_path}; the first is {path}: {reason}"
        )
    manifest = Manifest.of(records if window is None else (row for video in records for row in windows(video, window)))
    classes_path = None if split is None else _write_classes(out, listed.classes)
    manifest.write(out)
    decoded = [record.content or record.id for record in probed.values() if isinstance(record, VideoRecord)]
    return IndexReport(
        out,
        rejected_path,
        manifest,
        rejected,
        num_videos=len(decoded),
        num_repeated=len(decoded) - len(set(decoded)),
        num_missing=len(listed.missing),
        classes_path=classes_path,
    )


def _labelled(
    videos: Sequence[LabelledVideo], probed: Mapping[VideoSource, VideoRecord | tuple[str, str]]
) -> tuple[list[VideoRecord], list[tuple[str, str]]]:
    """Return the rows of the manifest in the order of the videos, and (path, reason) of what gives none."""
    records: list[VideoRecord] = []
    rejected: list[tuple[str, str]] = []
    for video in videos:
        record = probed[video.source]
        if not isinstance(record, VideoRecord):
            path, reason = record
            rejected.append((path if video.span is None else video.name, reason))
            continue
        record = replace(record, label=video.label)
        try:
            span = video.span
            records.append(record if span is None else cut(record, start=span.start, stop=span.stop, name=span.name))
        except ValueError as error:
            rejected.append((video.name, str(error)))
    return records, rejected


def probe_rows(table: pa.Table, *, depth: Depth = "quick", settings: TranscodeSettings | None = None) -> pa.Table:
    """Probe, and perhaps transcode, the videos of a table; one that does not decode becomes a row with a reason."""
    rows = [_probe_row(row, depth=depth, settings=settings) for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, schema=PROBED_SCHEMA)


def _probe_row(row: dict[str, Any], *, depth: Depth, settings: TranscodeSettings | None) -> dict[str, object]:
    target = row.pop("target")
    source = VideoSource(**row)
    try:
        record = _guard(PATIENCE_SECONDS).call(probe_record, source, label=None)
        if depth == "every frame":
            record = _guard(_patience(record)).call(probe_record, source, label=None, measure=verify)
        if target is not None:
            assert settings is not None
            record = _transcoded(record, Path(target), settings)
        return asdict(record)
    except DecodeError as error:  # returned, not raised: an exception would end the whole index
        return {"path": error.path, "reason": error.reason}


def _transcoded(record: VideoRecord, target: Path, settings: TranscodeSettings) -> VideoRecord:
    assert record.content is not None
    size = (record.width, record.height)
    try:
        _guard(_patience(record)).call(
            transcode, record.source, frame_size=size, content=record.content, target=target, settings=settings
        )
    finally:
        partial_path(target).unlink(missing_ok=True)  # of a child that was killed
    small = _guard(PATIENCE_SECONDS).call(probe_record, VideoSource(str(target)), label=None)
    return replace(small, content=record.content)


@lru_cache(maxsize=8)
def _guard(seconds: float) -> GuardedDecoder:
    """Return the decoder of this process that waits so long; its child serves one video after another."""
    return GuardedDecoder(GuardConfig(decode_seconds=seconds))


def _patience(record: VideoRecord) -> float:
    """Return how long all frames of a video may take, in steps of two, so that few guards serve all videos."""
    seconds = record.num_frames * record.width * record.height / PIXELS_PER_SECOND
    return PATIENCE_SECONDS * 2 ** math.ceil(math.log2(max(1, seconds / PATIENCE_SECONDS)))


def _targets(sources: Sequence[VideoSource], source: str, transcoding: Transcoding | None) -> Sequence[str | None]:
    """Return the file that each video is transcoded to, and make its folder."""
    if transcoding is None:
        return [None] * len(sources)
    if is_uri(os.fspath(transcoding.folder)):
        raise ValueError(f"transcodes go to a folder that all nodes see, not to a URI, got {transcoding.folder}")
    folder = Path(os.path.abspath(transcoding.folder))
    if is_folder(source):
        check_apart(folder, source=source)
    root = source if is_folder(source) else parent(source)
    targets = transcode_targets(sources, root=root, folder=folder)
    for inner in {target.parent for target in targets}:
        inner.mkdir(parents=True, exist_ok=True)
    return [str(target) for target in targets]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others from transcoding into a folder at the same time.

    Raises:
        ValueError: Somebody does.
    """
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process transcodes into {folder}; wait for it, or name another folder") from None
        yield


def _probed(
    sources: Sequence[VideoSource],
    targets: Sequence[str | None],
    *,
    workers: int | None,
    depth: Depth,
    transcoding: Transcoding | None,
) -> Iterator[dict]:
    """Yield the probed rows in the order of the sources, as blocks are done."""
    rows = [{**asdict(source), "target": target} for source, target in zip(sources, targets, strict=True)]
    table = pa.Table.from_pylist(rows, schema=SOURCE_SCHEMA)
    cpus = workers or int(ray.cluster_resources().get("CPU", 1))
    per_block = max(1, min(MOST_PER_BLOCK, len(table) // (BLOCKS_PER_CPU * cpus)))
    # Cut by hand: Ray would make one task of a small table.
    blocks = [table.slice(start, per_block) for start in range(0, len(table), per_block)]
    dataset = ray.data.from_arrow(blocks).map_batches(
        cast("Any", probe_rows),  # Ray's type of a function leaves no room for keyword arguments
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        compute=TaskPoolStrategy(workers),
        fn_kwargs={"depth": depth, "settings": None if transcoding is None else transcoding.settings},
    )
    dataset.context.execution_options.preserve_order = True  # the manifest's hash must not depend on timing
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from cast(pa.Table, batch).to_pylist()


def _write_classes(out: str, classes: Sequence[str]) -> str:
    place = os.path.splitext(out)[0] + ".classes.txt"
    write_bytes(place, "".join(f"{name}\n" for name in classes).encode())
    return place


def _write_rejected(place: str, rejected: Sequence[tuple[str, str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("path", "reason"), *rejected])
    write_bytes(place, text.getvalue().encode())
