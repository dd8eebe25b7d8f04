"""What one process has among all machines that share results: a number for ever, a name while it lives.

An object store has neither folders nor locks. Who wants something puts an object of its own, then looks for others':
whoever sees another's takes its own back. Of two at the same time both may lose, but never do both win.
"""

import hashlib
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem

from tats_ray.copies import MirrorError, store_of, where
from tats_ray.mirror import listed

_logger = logging.getLogger(__name__)

RENEW_SECONDS = 10.0
GONE_SECONDS = 45.0
"""After how long without a renewal the holder is taken to be gone."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def next_number(root: Path) -> int:
    """Return the number after the highest that a folder below ``root`` has; they start at 1."""
    here = root.glob("*")  # also what a store has lost: its number is not given to another run
    taken = [int(path.name) for path in (*listed(root), *here) if path.name.isdigit()]
    return max(taken, default=0) + 1


def new_number(root: Path) -> Path:
    """Make the folder of the next number, which nobody else has.

    Raises:
        OSError: ``root`` cannot be written.
    """
    while not _made(folder := root / f"{next_number(root):04d}"):
        if store_of(root) is not None:
            time.sleep(random.uniform(0, 1))  # so that those who met do not meet again
    return folder


@contextmanager
def leased(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a name until the block ends; say whether it is held.

    The caller is the only process of its machine that asks: it holds a lock of the system's, which ends with it. So an
    object that this machine left there is of a process that is gone. Another machine's is renewed by its holder; one
    that is not for :data:`GONE_SECONDS` (no clocks are compared) is taken to be left over, and removed.

    Args:
        folder: Names it; a folder of this machine is always free.
        wait: Whether another's object is watched until it is renewed or known to be left over, or counts at once.

    Raises:
        MirrorError: The store does not answer.
    """
    store = store_of(folder)
    if store is None:
        yield True
        return
    files, name = store
    own = f"{name}/{_machine(folder)}"
    try:
        held = _take(files, name, own, wait=wait)
    except (OSError, pa.ArrowException) as error:
        raise MirrorError(f"{where(folder)} cannot be written: {error}") from error
    if not held:
        yield False
        return
    over = threading.Event()
    beat = threading.Thread(target=_renew, args=(files, own, over), daemon=True, name="lease")
    beat.start()
    try:
        yield True
    finally:
        over.set()
        beat.join()
        try:
            files.delete_file(own)
        except (OSError, pa.ArrowException) as error:
            _logger.warning("%s stays taken for %g s: %s", where(folder), GONE_SECONDS, error)


def _made(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    store = store_of(folder)
    if store is None:
        return True
    files, name = store
    own = f"{name}/.claim_{uuid.uuid4().hex}"
    try:
        _put(files, own, 0)
        if _objects(files, name) == [own]:
            return True
        files.delete_file(own)
    except (OSError, pa.ArrowException) as error:
        raise MirrorError(f"{where(folder)} cannot be written: {error}") from error
    folder.rmdir()
    return False


def _take(files: FileSystem, name: str, own: str, *, wait: bool) -> bool:
    _put(files, own, 0)
    others = [path for path in _objects(files, name) if path != own]
    if not others:
        return True
    files.delete_file(own)
    if not wait or not all(_is_left(files, other) for other in others):
        return False
    for other in others:
        _delete(files, other)
    return _take(files, name, own, wait=wait)


def _is_left(files: FileSystem, name: str) -> bool:
    """Watch an object until it is renewed, gone, or known to be left over."""
    first = _read(files, name)
    until = time.monotonic() + GONE_SECONDS
    while time.monotonic() < until:
        time.sleep(min(1.0, GONE_SECONDS / 10))
        now = _read(files, name)
        if now is None:
            return True
        if now != first:
            return False
    return True


def _renew(files: FileSystem, own: str, over: threading.Event) -> None:
    number = 0
    while not over.wait(RENEW_SECONDS):
        number += 1
        try:
            _put(files, own, number)
        except (OSError, pa.ArrowException) as error:
            _logger.warning("%s could not be renewed, and another machine may take it: %s", own, error)


def _put(files: FileSystem, name: str, number: int) -> None:
    content = f"{socket.gethostname()} {os.getpid()} {number}".encode()
    try:
        stream = files.open_output_stream(name)
    except FileNotFoundError:
        files.create_dir(name.rpartition("/")[0], recursive=True)
        stream = files.open_output_stream(name)
    with stream:
        stream.write(content)


def _objects(files: FileSystem, name: str) -> list[str]:
    found = files.get_file_info(FileSelector(name, allow_not_found=True))
    return [info.path for info in found if info.is_file]


def _read(files: FileSystem, name: str) -> bytes | None:
    try:
        with files.open_input_stream(name) as stream:
            return stream.readall()
    except FileNotFoundError:
        return None


def _delete(files: FileSystem, name: str) -> None:
    try:
        files.delete_file(name)
    except FileNotFoundError:  # by another that waited, too
        return


def _machine(folder: Path) -> str:
    """Name this machine, and its copy of the store: containers may share the rest."""
    device = next(parent for parent in folder.parents if parent.exists()).stat().st_dev
    boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
    known = f"{socket.gethostname()}|{boot}|{device}|{folder}"
    return hashlib.sha256(known.encode()).hexdigest()[:16]
