"""Folders of this machine that are copies of what lies at a URI, and which of which.

``s3://bucket/results/tiny/0001`` has its copy at ``~/.cache/tats_ray/s3%3A%2F%2Fbucket/results/tiny/0001``. A path says
by itself of what it is a copy, on every machine, so whoever has one needs to be told nothing more.
"""

import os
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

from tats_ray.data.places import PlaceError, filesystem, is_uri


class MirrorError(OSError):
    """A store does not do what was asked of it; the message names the URI, and holds no credentials."""


def path_of(place: str) -> Path:
    """Return the folder or file of this machine for a path or URI, which need not be there.

    Raises:
        MirrorError: The URI holds a password, which would end up in the names of folders.
    """
    place = os.path.expanduser(place.removeprefix("file://"))
    if not is_uri(place):
        return Path(place)
    parts = urlsplit(place)
    if parts.password is not None:
        hidden = place.replace(f"{parts.netloc}", parts.netloc.rpartition("@")[2], 1)
        raise MirrorError(
            f"{hidden} was given with a password, which would stand in names of folders and in logs; give it by the "
            f"environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    root = f"{parts.scheme}://{parts.netloc}" + (f"?{parts.query}" if parts.query else "")
    return _copies() / quote(root, safe="") / parts.path.strip("/")


def uri_of(path: Path) -> str | None:
    """Return the URI that a path is the copy of; None for a folder of this machine."""
    split = _split(path)
    if split is None:
        return None
    root, inner = split
    address, separator, query = root.partition("?")
    return f"{address}/{inner}{separator}{query}"


def where(path: Path) -> str:
    """Name a place for people and records: the URI that a path is a copy of, or the path."""
    return uri_of(path) or str(path)


def store_of(path: Path) -> tuple[FileSystem, str] | None:
    """Return the filesystem that a path is a copy of, and its name there; None for a folder of this machine.

    Raises:
        MirrorError: The kind of URI is unknown, or its package is missing.
    """
    split = _split(path)
    if split is None:
        return None
    files, base = _filesystem(split[0])
    return files, f"{base.rstrip('/')}/{split[1]}"


def truth_of(path: Path) -> tuple[FileSystem, str] | None:
    """Return the store that has the truth about a path, and its name there; None where that is this machine."""
    split = _split(path)
    if split is None or any(part.startswith(".") for part in split[1].split("/")):
        return None
    return store_of(path)


def _copies() -> Path:
    """Return the folder of all copies."""
    given = os.environ.get("TATS_COPIES")
    cached = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given).absolute() if given else Path(cached).absolute() / "tats_ray"


def _split(path: Path) -> tuple[str, str] | None:
    """Return the scheme and host of the URI that a path is the copy of, and what follows."""
    for place, part in enumerate(path.parts):
        root = unquote(part) if "%3A%2F%2F" in part else ""
        if is_uri(root):
            return root, "/".join(path.parts[place + 1 :])
    return None


@cache
def _filesystem(root: str) -> tuple[FileSystem, str]:
    """Return the filesystem of a URI's scheme and host, by pyarrow or else fsspec, and where it begins there."""
    try:
        return FileSystem.from_uri(root)
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise MirrorError(f"{root}: {error}") from error
    except (OSError, pa.ArrowException) as error:
        raise MirrorError(f"{root} cannot be opened: {error}") from error
    try:
        files, base = filesystem(root)
    except PlaceError as error:
        raise MirrorError(str(error)) from error
    return PyFileSystem(FSSpecHandler(files)), base
