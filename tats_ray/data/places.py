"""Paths and URIs alike: where a file lies, and reading and writing it whole."""

import errno
import os
import posixpath
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class PlaceError(Exception):
    """A URI that cannot be used; the message says why, and the way out."""


def is_uri(place: str) -> bool:
    """Tell ``s3://bucket/key`` from a path."""
    return _URI.match(place) is not None


def settled(place: str | os.PathLike[str], *, folder: str = ".") -> str:
    """Return a URI as it is, and a path as an absolute one; relative paths count from ``folder``, a path or a URI."""
    place = os.fspath(place).removeprefix("file://")
    if is_uri(place) or os.path.isabs(place) or not is_uri(folder):
        return place if is_uri(place) else os.path.abspath(os.path.join(folder, place))
    scheme, _, rest = folder.partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(rest, place))}"


def parent(place: str) -> str:
    """Return the folder that a path or URI lies in."""
    scheme, separator, rest = place.partition("://") if is_uri(place) else ("", "", place)
    return f"{scheme}{separator}{posixpath.dirname(rest)}"


def filesystem(uri: str) -> tuple[Any, str]:
    """Return the filesystem of a URI and the path on it.

    Raises:
        PlaceError: The kind of URI is unknown, or the package for it is missing.
    """
    try:
        return fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise PlaceError(
            f"{uri.partition('://')[0]}:// URIs cannot be opened here ({error}); install the fsspec package for it on "
            f"all nodes, such as s3fs for s3:// or gcsfs for gs://"
        ) from error


@contextmanager
def opened(place: str) -> Iterator[IO[bytes]]:
    """Open a file for reading anywhere in it.

    Raises:
        FileNotFoundError: There is none.
        PlaceError: It cannot be read, or the URI's filesystem is not there.
    """
    try:
        if is_uri(place):
            files, path = filesystem(place)
            with files.open(path, "rb") as file:
                yield file
        else:
            with open(place, "rb") as file:
                yield file
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place) from None
    except OSError as error:
        raise PlaceError(f"{place}: {error.strerror or error}") from error


def is_folder(place: str) -> bool:
    """Tell whether a path or URI is a folder.

    Raises:
        PlaceError: The URI's filesystem is not there.
    """
    if not is_uri(place):
        return os.path.isdir(place)
    files, path = filesystem(place)
    return files.isdir(path)


def exists(place: str) -> bool:
    """Tell whether something lies at a path or URI.

    Raises:
        PlaceError: The URI's filesystem is not there.
    """
    if not is_uri(place):
        return os.path.exists(place)
    files, path = filesystem(place)
    return files.exists(path)


def walked(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield a folder and each one below it, with its subfolders and files; alphabetical, nothing hidden.

    Links are followed, but never in a circle.

    Raises:
        PlaceError: A folder cannot be read.
    """
    if is_uri(folder):
        yield from _walked_uri(folder.rstrip("/"))
        return

    def refuse(error: OSError) -> None:
        raise PlaceError(
            f"the folder {error.filename} cannot be read: {error.strerror}; make it readable or move it away"
        )

    visited: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(place)
        folders[:] = _visible(folders) if real not in visited else []
        if real not in visited:
            visited.add(real)
            yield place, folders, _visible(files)


def _walked_uri(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    files, root = filesystem(folder)
    found = []
    for path, subfolders, names in files.walk(root, on_error="raise"):
        inner = PurePosixPath(path).relative_to(root).parts
        if not any(part.startswith(".") for part in inner):
            found.append((inner, _visible(subfolders), _visible(names)))
    for inner, subfolders, names in sorted(found):
        yield "/".join((folder, *inner)), subfolders, names


def _visible(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith("."))


def read_bytes(place: str) -> bytes:
    """Read a whole file.

    Raises:
        FileNotFoundError: There is none.
        PlaceError: It cannot be read, or the URI's filesystem is not there.
    """
    with opened(place) as file:
        return file.read()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a hidden path beside ``path`` to write to, which takes its name at the block's end, or is removed.

    Folders are made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_bytes(place: str, content: bytes) -> None:
    """Write a whole file or nothing; folders are made if need be.

    Raises:
        PlaceError: The URI's filesystem is not there, or refuses.
    """
    if is_uri(place):
        files, path = filesystem(place)
        try:
            files.pipe_file(path, content)  # one put: an object store shows all of it or nothing
        except OSError as error:
            raise PlaceError(f"{place}: {error}") from error
        return
    with whole(Path(place)) as unfinished:
        unfinished.write_bytes(content)
