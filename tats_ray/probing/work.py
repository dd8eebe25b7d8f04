"""Work on a manifest's views, part by part: decoded once, encoded by a frozen model, written; resumable."""

import os
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from tats_ray.data.guard import GuardConfig, GuardedDecoder
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.data.part_files import Part, cut
from tats_ray.probing.decoding import ViewLayout, Views, decode_record

GIB = 2**30
PARTS_AHEAD = 2
"""Parts that are decoded while one is encoded."""


@dataclass(frozen=True, kw_only=True)
class Work(ABC):
    """All that is to be made of one manifest's videos; plain data, pickled to wherever that happens."""

    checkpoint: Path
    """Folder of the frozen model's weights."""
    folder: Path
    """Folder that everything is written below."""
    layout: ViewLayout
    batch: int
    """Views that the model sees at once."""
    guard: GuardConfig
    """What the decoding of one video may take."""
    num_videos: int

    @abstractmethod
    def files(self, part: Part) -> list[Path]:
        """Return the files that a part becomes."""

    def parts(self) -> list[Part]:
        """Return all parts, in order; a function of the manifest's length and the layout alone."""
        return cut(self.num_videos, video_bytes=self.layout.video_bytes)

    def missing(self) -> list[Part]:
        """Return the parts of which a file is missing."""
        return [part for part in self.parts() if not all(file.exists() for file in self.files(part))]


class EncodePart(Protocol):
    """Encodes what became of a part's videos in every way that is still missing, and writes its files."""

    def __call__(
        self, frozen: Any, work: Any, part: Part, records: Sequence[VideoRecord], views: Sequence[Views], /
    ) -> None:
        """Raise PartError where they cannot be written."""
        ...


class ViewDecoder:
    """Decodes views in guarded child processes, and may keep them for the next encoder that looks at the same videos.

    Example:
        >>> with ViewDecoder(GuardConfig(), keep_gib=2) as decoder:
        ...     for frozen in encoders:
        ...         evaluate(frozen, ..., extract=partial(extract_here, decoder=decoder))
    """

    def __init__(self, guard: GuardConfig, *, keep_gib: float = 0) -> None:
        """Guard by the configuration; views are kept as long as they have room in ``keep_gib``."""
        self._decode = GuardedDecoder(guard)
        self._room = int(keep_gib * GIB)
        self._kept: OrderedDict[tuple[str, ViewLayout], Views] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._decode.__exit__(*error)

    def __call__(self, record: VideoRecord, layout: ViewLayout) -> Views:
        """Return a video's views; called by several threads."""
        key = (f"{record.id} {record.content}", layout)
        found = self._kept.get(key)
        if found is None:
            found = decode_record(record, layout, decode=self._decode)
            if self._room >= layout.video_bytes:
                self._room -= layout.video_bytes
                self._kept[key] = found
        return found


def make_here(
    frozen: Any,
    manifest: Manifest,
    work: Work,
    *,
    encode: EncodePart,
    decoder: ViewDecoder | None = None,
    advance: Callable[[int], object] = lambda videos: None,
) -> None:
    """Make the missing parts in this process: threads decode, each in a child; this thread encodes.

    Args:
        frozen: The model.
        manifest: The videos.
        work: What to make.
        encode: Makes a part with the model.
        decoder: Whose views are used; one of its own by default.
        advance: Told how many more videos are done.
    """
    if decoder is None:
        with ViewDecoder(work.guard) as own:
            return make_here(frozen, manifest, work, encode=encode, decoder=own, advance=advance)
    missing = work.missing()
    advance(work.num_videos - sum(len(part.rows) for part in missing))
    for part, records, views in _decoded(missing, manifest, work.layout, decode=decoder):
        encode(frozen, work, part, records, views)
        advance(len(part.rows))
    return None


def _decoded(
    parts: Sequence[Part], manifest: Manifest, layout: ViewLayout, *, decode: Callable[[VideoRecord, ViewLayout], Views]
) -> Iterator[tuple[Part, list[VideoRecord], list[Views]]]:
    """Yield parts in order, with their videos and what these gave; some more are decoded by threads meanwhile."""
    waiting: deque[tuple[Part, list[VideoRecord], list[Future[Views]]]] = deque()
    pool = ThreadPoolExecutor(_cores(), thread_name_prefix="views")
    try:
        for part in [*parts, *[None] * PARTS_AHEAD]:
            if part is not None:
                records = [manifest.record(row) for row in part.rows]
                waiting.append((part, records, [pool.submit(decode, one, layout) for one in records]))
            if len(waiting) > PARTS_AHEAD or (part is None and waiting):
                ready, records, views = waiting.popleft()
                yield ready, records, [one.result() for one in views]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
