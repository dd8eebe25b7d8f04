"""Files of results, on the disk or in an object store of which a folder of this machine is a copy.

For a path that is no copy (:mod:`tats_ray.copies`) all functions here do what they say on the disk alone. The store has
the truth: small files are read from it, never from the copy. What is hidden (a name that begins with a dot) stays on
its machine.

The functions raise :class:`~tats_ray.copies.MirrorError`, an ``OSError``, where a disk would raise one.
"""

import logging
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

from tats_ray.copies import MirrorError, store_of, truth_of, where
from tats_ray.data.places import whole

_logger = logging.getLogger(__name__)
T = TypeVar("T")

WAITS = (1.0, 4.0, 16.0)
"""Seconds between the tries of one request; a store that is away longer is an error."""
CHUNK_BYTES = 8 * 2**20


def read_text(path: Path) -> str:
    """Read a small file.

    Raises:
        FileNotFoundError: There is none.
    """
    there = truth_of(path)
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
    there = truth_of(path)
    if there is not None:
        try:
            _put(path, *there)
        except OSError as error:
            _logger.warning("%s could not be written, and %s has it: %s", where(path), path, error)


def exists(path: Path) -> bool:
    """Tell whether a file or a folder is there."""
    there = truth_of(path)
    return path.exists() if there is None else _info(*there, path).type != FileType.NotFound


def listed(folder: Path, *, depth: int = 1) -> list[PurePosixPath]:
    """Return what lies in a folder, and below it down to a depth, hidden things left out; nothing without a folder."""
    there = truth_of(folder)
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
    if truth_of(path) is None or not path.exists():
        return
    found = [path] if path.is_file() else [file for file in _walked(path, None) if file.is_file()]
    for file in sorted(found, key=lambda file: (file.name == last, file)):
        there = truth_of(file)
        if there is not None:
            _tried(f"{where(file)} cannot be written", lambda file=file, there=there: _put(file, *there))


def fetch(path: Path, *, last: str | None = None) -> bool:
    """Bring a file, or all files of a folder, to this machine, over what lies there; say whether there is one.

    Args:
        path: On this machine.
        last: Name of the file of a folder that is brought when the others are there.
    """
    there = truth_of(path)
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
    there = truth_of(path)
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
