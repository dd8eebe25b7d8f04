"""What the store of a run has not taken yet, in a file of the run's folder: it outlives the process that wrote it."""

import fcntl
import json
import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

MAX_IN_MEMORY = 20_000
"""Entries kept in memory while the file itself cannot be written; beyond it the oldest are lost, counted and told."""

_logger = logging.getLogger(__name__)


class Unsent:
    """Entries that wait in a file, one JSON object a line, in the order in which they came.

    An entry is in the file when :meth:`append` returns: it outlives the process, though not a power cut. The file is
    there only while something waits. Threads and processes may append while another reads, and several may read:
    each then has all entries, and whoever reads the last one removes the file.

    Args:
        path: The file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._in_memory: deque[bytes] = deque(maxlen=MAX_IN_MEMORY)
        self._file: BinaryIO | None = None
        self._taken = self._read_to = 0
        self._crowded_out = self._unreadable = 0

    @property
    def lost(self) -> int:
        """Entries that nobody will ever read: crowded out of memory, or destroyed in the file."""
        return self._crowded_out + self._unreadable

    @property
    def waiting(self) -> bool:
        """Whether there is anything to read, or to write."""
        return bool(self._in_memory) or self._path.exists()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry; while the file cannot be written it waits in memory, and nothing is raised."""
        self._crowded_out += len(self._in_memory) == self._in_memory.maxlen
        self._in_memory.append(json.dumps(entry).encode() + b"\n")
        self.flush()

    def flush(self) -> None:
        """Write what waits in memory, as far as it can be written now."""
        if not self._in_memory:
            return
        try:
            with self._appending() as file:
                _write_all(file, b"".join(self._in_memory))
        except OSError as error:
            if len(self._in_memory) == 1:
                _logger.warning("%s cannot be written (%s); what belongs there waits in memory", self._path, error)
        else:
            self._in_memory.clear()

    def read(self, at_most: int) -> list[dict[str, Any]]:
        """Return the first entries that were not taken off: the same ones again, until they are.

        Raises:
            OSError: The file cannot be read.
        """
        if self._file is None or not os.fstat(self._file.fileno()).st_nlink:  # somebody else sent it all
            self._close()
            if not self._path.exists():
                return []
            self._file = self._path.open("r+b")
        self._file.seek(self._taken)
        lines = [line for line in islice(self._file, at_most) if line.endswith(b"\n")]
        self._read_to = self._taken + sum(map(len, lines))
        entries = [entry for line in lines if (entry := self._parsed(line)) is not None]
        if lines and not entries:
            self.take_off()
            return self.read(at_most)
        return entries

    def take_off(self) -> None:
        """Forget the entries that were read last; with the last of all goes the file."""
        if self._file is None:
            return
        self._taken = self._read_to
        fcntl.flock(self._file, fcntl.LOCK_EX)
        status = os.fstat(self._file.fileno())
        if status.st_nlink and status.st_size == self._taken:
            self._path.unlink()
            self._close()
        else:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._taken, self._read_to = None, 0, 0

    @contextmanager
    def _appending(self) -> Iterator[int]:
        """Open the file and hold it, so that nobody removes it before it is written."""
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.fstat(file).st_nlink:  # else it was removed between the two calls
                    yield file
                    return
            finally:
                os.close(file)

    def _parsed(self, line: bytes) -> dict[str, Any] | None:
        """Return an entry; None of a line that a crash of the machine has torn."""
        try:
            entry = json.loads(line)
        except ValueError:
            self._unreadable += 1
            return None
        return entry


def _write_all(file: int, content: bytes) -> None:
    """Append all of it or nothing: a disk that is full halfway would leave a torn line."""
    before = os.fstat(file).st_size
    if before and os.pread(file, 1, before - 1) != b"\n":  # torn by a crash of the machine: it ends here
        content = b"\n" + content
    try:
        written = 0
        while written < len(content):
            written += os.write(file, content[written:])
    except OSError:
        os.ftruncate(file, before)
        raise
