"""Videos in tar shards as WebDataset lays them: found by the headers alone, no video is read."""

import json
import tarfile
from pathlib import PurePosixPath
from typing import IO

from tats_ray.data.manifest import ManifestError
from tats_ray.data.places import opened
from tats_ray.data.source import VideoSource

# fmt: off
VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".h264", ".hevc", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".ts", ".webm", ".wmv",
)
# fmt: on
SHARD_SUFFIXES = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""How compressed files begin."""


def is_video(name: str) -> bool:
    """Tell a video by its suffix."""
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def is_shard(name: str) -> bool:
    """Tell a tar file, compressed or not, by its suffix."""
    return name.lower().endswith(SHARD_SUFFIXES)


def list_shard(shard: str) -> list[tuple[VideoSource, int | None]]:
    """List the videos of a tar file, a path or a URI, in its order and without hidden ones, each with its label if any.

    The label of ``a.mp4`` is the integer in the member ``a.cls``, or that of ``label`` in the member ``a.json``.

    Raises:
        ManifestError: The file is compressed, damaged, or holds no video, or a label is no integer.
        FileNotFoundError: There is none.
        PlaceError: It cannot be read.
    """
    with opened(shard) as file:
        begin = file.read(8)
        for magic, name in COMPRESSED.items():
            if begin.startswith(magic):
                raise ManifestError(
                    f"{shard} is compressed ({name}), so that no video in it can be reached without unpacking all "
                    f"before it; unpack it to a plain .tar (videos are compressed already)"
                )
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                found = _videos(archive, shard)
        except tarfile.TarError as error:
            raise ManifestError(
                f"{shard} is no tar file, or a damaged one: {error}; repair it or leave it out"
            ) from error
    if not found:
        raise ManifestError(f"{shard} holds no video; looked for {' '.join(VIDEO_SUFFIXES)}")
    return found


def _videos(archive: tarfile.TarFile, shard: str) -> list[tuple[VideoSource, int | None]]:
    members = {member.name: member for member in archive if member.isreg()}
    if not members:
        raise ManifestError(f"{shard} is an empty tar file")
    found = []
    for name, member in members.items():
        if is_video(name) and not PurePosixPath(name).name.startswith("."):
            source = VideoSource(shard, member=name, offset=member.offset_data, num_bytes=member.size)
            found.append((source, _label(archive, members, source)))
    return found


def _label(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], video: VideoSource) -> int | None:
    """Read the label beside a video: of the same name up to the suffix or, as in WebDataset, to the first dot."""
    assert video.member is not None
    stem = video.member.removesuffix(PurePosixPath(video.member).suffix)
    folder, slash, name = video.member.rpartition("/")
    for key in (stem, folder + slash + name.partition(".")[0]):
        for suffix in (".cls", ".json"):
            member = members.get(key + suffix)
            file = None if member is None else archive.extractfile(member)
            if file is not None:
                return _number(file, suffix, video=video, place=key + suffix)
    return None


def _number(file: IO[bytes], suffix: str, *, video: VideoSource, place: str) -> int | None:
    text = file.read()
    try:
        given = json.loads(text)
    except ValueError:
        given = text.decode(errors="replace") if suffix == ".cls" else "no JSON"
    if suffix == ".json" and isinstance(given, dict):
        given = given.get("label")
        if given is None:
            return None
    if not isinstance(given, int) or isinstance(given, bool):
        raise ManifestError(f"{video.path}, member {place}: the label must be an integer, got {given!r}")
    return given
