"""Where the transcode of each video lies: below one folder, laid out as the sources are."""

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

from tats_ray.data.manifest import ManifestError
from tats_ray.data.places import is_uri
from tats_ray.data.source import VideoSource

SUFFIX = ".mp4"


def transcode_targets(sources: Sequence[VideoSource], *, root: str, folder: Path) -> list[Path]:
    """Return the file that each video is transcoded to.

    What lies below ``root`` keeps its place relative to it, anything else its whole path or URI without slashes in
    front. A shard becomes a folder of its members. Names that do not end in ``.mp4`` get it added, so that ``a.avi``
    and ``a.mp4`` stay apart. The place of a video depends on no other video.

    Raises:
        ManifestError: Two videos would be written to one file, or a video onto itself.
    """
    targets = [folder / _inner(source, root) for source in sources]
    taken: dict[Path, VideoSource] = {}
    for source, target in zip(sources, targets, strict=True):
        if target in taken:
            raise ManifestError(
                f"{taken[target].name} and {source.name} would both be transcoded to {target}; rename one of them"
            )
        if os.path.realpath(source.path) == os.path.realpath(target):
            raise ManifestError(f"{source.name} would be transcoded onto itself; name another folder with --transcode")
        taken[target] = source
    return targets


def _inner(source: VideoSource, root: str) -> str:
    inside = source.path.startswith(root.rstrip("/") + "/")
    place = source.path[len(root.rstrip("/")) :] if inside else source.path.replace("://", "/")
    if source.member is not None:
        place = posixpath.join(place, posixpath.normpath(f"/{source.member}").lstrip("/"))  # never above the shard
    return place.lstrip("/") + ("" if place.lower().endswith(SUFFIX) else SUFFIX)


def check_apart(folder: Path, *, source: str) -> None:
    """Refuse to write transcodes into the folder whose videos are transcoded: they would be its videos next time.

    Raises:
        ValueError: ``folder`` is ``source`` or lies in it.
    """
    if not is_uri(source) and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(source)):
        raise ValueError(f"the folder for transcodes must lie outside of the source, got {folder} in {source}")
