"""What a split file says, and which of its videos a folder holds."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tats_ray.data.shards import is_video
from tats_ray.data.source import VideoSource


@dataclass(frozen=True)
class Span:
    """A named stretch of a long video, in seconds from its first frame."""

    name: str
    """What tells it from other stretches of the same video, which may overlap it or begin together with it."""
    start: float
    stop: float
    """Later than ``start``; a frame that begins then is outside."""


@dataclass(frozen=True)
class SplitRow:
    """One video, or one stretch of a video, that a split file lists."""

    name: str
    """What the split file calls it."""
    label: int
    """Index into the class names, from 0."""
    video: str
    """Name of its file, without folder and suffix."""
    folder: str | None = None
    """Folder of the file in the official layout; it decides where several files have that name."""
    span: Span | None = None
    """The stretch, where the file holds more than what is listed."""
    trimmed: str | None = None
    """Name, without suffix, of a file that would hold the stretch alone."""


@dataclass(frozen=True)
class Split:
    """What a split file says."""

    rows: Sequence[SplitRow]
    """In the order of the file."""
    classes: Sequence[str]
    """Names of the classes; a label is an index into them."""


@dataclass(frozen=True)
class LabelledVideo:
    """One video, or a stretch of one, and its label."""

    source: VideoSource
    label: int | None
    span: Span | None = None

    @property
    def name(self) -> str:
        """How it is called in messages and tables."""
        return self.source.name if self.span is None else f"{self.source.name}#{self.span.name}"


@dataclass(frozen=True)
class FoundSplit:
    """Which videos of a split are there."""

    videos: Sequence[LabelledVideo]
    """Those that are, in the order of the split."""
    missing: Sequence[tuple[str, str]]
    """Name in the split, and reason, of the others."""
    classes: Sequence[str] = field(default=())


def find_videos(split: Split, videos: Iterable[VideoSource], *, folder: str) -> FoundSplit:
    """Find the rows of a split among videos, by the names of their files without folders and suffixes.

    A suffix that a transcode added is no part of the name: ``a.avi.mp4`` is ``a``. Where several videos have the name,
    the one that lies in the row's folder is taken.

    Args:
        split: The rows that are looked for.
        videos: The videos that are there.
        folder: What they were listed from, for the reasons.
    """
    named: dict[str, list[VideoSource]] = defaultdict(list)
    for video in videos:
        named[_stem(video)].append(video)
    found: dict[tuple[VideoSource, str | None], LabelledVideo] = {}
    missing: list[tuple[str, str]] = []
    for row in split.rows:
        try:
            video = _found(row, named, folder)
        except LookupError as error:
            missing.append((row.name, str(error)))
            continue
        key = (video.source, None if video.span is None else video.span.name)
        if key in found:
            other = found[key].label
            missing.append((row.name, f"is listed a second time; the first, with label {other}, is taken"))
        else:
            found[key] = video
    return FoundSplit(list(found.values()), missing, split.classes)


def _found(row: SplitRow, named: dict[str, list[VideoSource]], folder: str) -> LabelledVideo:
    """Return the video of a row, or raise a ``LookupError`` with the reason why there is none."""
    trimmed = named.get(row.trimmed, []) if row.trimmed is not None else []
    held = trimmed or named.get(row.video, [])
    if not held:
        raise LookupError(f"no video {row.video} (with any suffix of a video) in {folder}")
    if len(held) > 1:
        inside = [video for video in held if row.folder is not None and _alike(_parent(video), row.folder)]
        if len(inside) != 1:
            raise LookupError(f"several videos have that name: {', '.join(video.name for video in held)}; keep one")
        held = inside
    return LabelledVideo(held[0], row.label, None if trimmed else row.span)


def _stem(video: VideoSource) -> str:
    name = _inner(video).name
    while is_video(name):
        name = PurePosixPath(name).stem
    return name


def _parent(video: VideoSource) -> str:
    return _inner(video).parent.name


def _inner(video: VideoSource) -> PurePosixPath:
    return PurePosixPath(video.path if video.member is None else video.member)


def _alike(one: str, other: str) -> bool:
    """Compare names of folders, whose blanks some tools write as underscores."""
    return re.sub("[ _]", " ", one) == re.sub("[ _]", " ", other)
