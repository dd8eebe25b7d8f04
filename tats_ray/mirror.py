"""Results at a URI: folders of this machine that are copies of what lies in an object store.

``s3://bucket/results/tiny/0001`` has its copy at ``~/.cache/tats_ray/s3%3A%2F%2Fbucket/results/tiny/0001``. A path says
by itself of what it is a copy, on every machine, so whoever has one needs to be told nothing more; for any other path
all functions here do what they say on the disk alone. The store has the truth: small files are read from it, never from
the copy. What is hidden (a name that begins with a dot) stays on its machine.

The functions raise :class:`MirrorError`, an ``OSError``, where a disk would raise one.
"""

import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, FSSpecHandler, PyFileSystem

from tats_ray.data.places import PlaceError, filesystem, is_uri, whole

_logger = logging.getLogger(__name__)
T = TypeVar("T")

WAITS = (1.0, 4.0, 16.0)
"""Seconds between the tries of one request; a store that is away longer is an error."""
CHUNK_BYTES = 8 * 2**20


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


def read_text(path: Path) -> str:
    """Read a small file.

    Raises:
        FileNotFoundError: There is none.
    """
    there = _there(path)
    if there is None:
        return path.read_text()
    files, name = there

    def read() -> str:
        with files.open_input_stream(name) as stream:
            return stream.readall().decode()

    return _tried(f"{where(path)} cannot be read", read)


def write_text(path: Path, text: str, *, insist: bool = True) -> None:
    """Replace a small file, whole or not at all.

    Args:
        path: Of the file; folders are made if need be.
        text: Its content.
        insist: Whether a store that does not take it is an error, or a warning after the first try: for the last words
            of a process that may have seconds left.
    """
    with whole(path) as unfinished:
        unfinished.write_text(text)
    if insist:
        send(path)
        return
    there = _there(path)
    if there is not None:
        try:
            _put(path, *there)
        except OSError as error:
            _logger.warning("%s could not be written, and %s has it: %s", where(path), path, error)


def exists(path: Path) -> bool:
    """Tell whether a file or a folder is there."""
    there = _there(path)
    return path.exists() if there is None else _info(*there, path).type != FileType.NotFound


def listed(folder: Path, *, depth: int = 1) -> list[PurePosixPath]:
    """Return what lies in a folder, and below it down to a depth, hidden things left out; nothing without a folder."""
    there = _there(folder)
    if there is None:
        found = [PurePosixPath(path.relative_to(folder)) for path in _walked(folder, depth)]
    else:
        files, name = there
        selector = FileSelector(name, recursive=depth > 1, allow_not_found=True)
        infos = _tried(f"{where(folder)} cannot be listed", lambda: files.get_file_info(selector))
        found = [PurePosixPath(info.path).relative_to(name) for info in infos]
    return sorted(one for one in found if len(one.parts) <= depth and not any(p.startswith(".") for p in one.parts))


def send(path: Path, *, last: str | None = None) -> None:
    """Bring a file, or all files of a folder, to the store; nothing where there is none, or no such path.

    Args:
        path: On this machine.
        last: Name of the file of a folder that is sent when the others are there.
    """
    if _there(path) is None or not path.exists():
        return
    found = [path] if path.is_file() else [file for file in _walked(path, None) if file.is_file()]
    for file in sorted(found, key=lambda file: (file.name == last, file)):
        there = _there(file)
        if there is not None:
            _tried(f"{where(file)} cannot be written", lambda file=file, there=there: _put(file, *there))


def fetch(path: Path, *, last: str | None = None) -> bool:
    """Bring a file, or all files of a folder, to this machine, over what lies there; say whether there is one.

    Args:
        path: On this machine.
        last: Name of the file of a folder that is brought when the others are there.
    """
    there = _there(path)
    if there is None:
        return path.exists()
    files, name = there
    info = _info(files, name, path)
    if info.type == FileType.NotFound:
        return False
    if info.type == FileType.File:
        _tried(f"{where(path)} cannot be read", lambda: _get(path, files, name))
    else:
        path.mkdir(parents=True, exist_ok=True)
        for inner in sorted(listed(path), key=lambda inner: (inner.name == last, inner)):
            fetch(path / inner)
    return True


def have(path: Path) -> bool:
    """See that a file which never changes is on this machine; say whether there is one."""
    return path.exists() or fetch(path)


def remove(path: Path, *, first: str | None = None) -> None:
    """Remove a folder with all that is in it, in the store and here.

    Args:
        path: Of the folder.
        first: Name of the file that goes before the others.
    """
    there = _there(path)
    if there is not None:
        files, name = there

        def drop() -> None:
            if first is not None and files.get_file_info(f"{name}/{first}").type == FileType.File:
                files.delete_file(f"{name}/{first}")
            if files.get_file_info(name).type != FileType.NotFound:
                files.delete_dir(name)

        _tried(f"{where(path)} cannot be removed", drop)
    if path.exists():
        shutil.rmtree(path)


@cache
def check(root: Path) -> None:
    """Write, read and remove a file below a folder; once in a process.

    Raises:
        MirrorError: The store refuses, or does not answer.
    """
    store = store_of(root)
    if store is None:
        return
    files, name = store
    probe = f"{name}/.probe_{uuid.uuid4().hex}"
    try:
        _write(files, probe, b"tats_ray")
        with files.open_input_stream(probe) as stream:
            stream.readall()
        files.delete_file(probe)
    except (OSError, pa.ArrowException) as error:
        raise MirrorError(f"{where(root)} does not take a file and give it back: {error}") from error


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


def _there(path: Path) -> tuple[FileSystem, str] | None:
    """Return the store that has the truth about a path, and its name there; None where that is this machine."""
    split = _split(path)
    if split is None or any(part.startswith(".") for part in split[1].split("/")):
        return None
    return store_of(path)


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


def _tried(what: str, request: Callable[[], T]) -> T:
    """Make a request again while a store fails it."""
    for wait in (*WAITS, None):
        try:
            return request()
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            if wait is None:
                seconds = sum(WAITS)
                raise MirrorError(f"{what}: {error} (tried {len(WAITS) + 1} times in {seconds:g} s)") from error
            time.sleep(wait)
    raise AssertionError


def _info(files: FileSystem, name: str, path: Path) -> FileInfo:
    return _tried(f"{where(path)} cannot be read", lambda: files.get_file_info(name))


def _put(path: Path, files: FileSystem, name: str) -> None:
    with path.open("rb") as file, _writing(files, name) as stream:
        shutil.copyfileobj(file, stream, CHUNK_BYTES)


def _get(path: Path, files: FileSystem, name: str) -> None:
    """Bring a file here, whole or not at all."""
    with whole(path) as unfinished, files.open_input_stream(name) as stream, unfinished.open("wb") as file:
        shutil.copyfileobj(stream, file, CHUNK_BYTES)


def _write(files: FileSystem, name: str, content: bytes) -> None:
    with _writing(files, name) as stream:
        stream.write(content)


def _writing(files: FileSystem, name: str) -> Any:
    """Open a file for writing; its folder is made where the store has folders."""
    try:
        return files.open_output_stream(name)
    except FileNotFoundError:
        files.create_dir(name.rpartition("/")[0], recursive=True)
        return files.open_output_stream(name)


def _walked(folder: Path, depth: int | None) -> Iterator[Path]:
    """Yield what lies on the disk below a folder, hidden things left out."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if not path.name.startswith("."):
            yield path
            if path.is_dir() and depth != 1:
                yield from _walked(path, None if depth is None else depth - 1)
