"""The child process of a guarded decoder: calls what it is sent, answers with what that returned or raised.

It imports what the calls need and nothing of the training (no torch), so that it starts quickly and stays small.
"""

import ctypes
import mmap
import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Sequence
from itertools import accumulate, pairwise
from multiprocessing.connection import Connection
from typing import Any, Literal

import tats_ray.data.decode  # noqa: F401  # a child that says it is ready can decode without importing any more
from tats_ray.data.source import DecodeError

PR_SET_PDEATHSIG = 1

Outcome = tuple[Literal["returned", "refused", "memory", "failed"], Any]
"""What became of a call: its value, a ``DecodeError``, nothing (the limit was reached), or a traceback."""


class SharedMemory:
    """Memory of a file that two processes have open: one writes an answer's frames, the other copies them out."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._memory: mmap.mmap | None = None

    def write(self, parts: Sequence[memoryview]) -> list[int]:
        """Lay parts one after another; return their sizes."""
        sizes = [part.nbytes for part in parts]
        memory = self._of_size(sum(sizes))
        for part, (begin, end) in zip(parts, _spans(sizes), strict=True):
            memory[begin:end] = part.cast("B")
        return sizes

    def read(self, sizes: Sequence[int]) -> list[bytearray]:
        """Copy the parts out."""
        with memoryview(self._of_size(sum(sizes))) as memory:
            return [bytearray(memory[begin:end]) for begin, end in _spans(sizes)]

    def _of_size(self, size: int) -> mmap.mmap:
        if self._memory is None or len(self._memory) < size:
            size = max(size, mmap.PAGESIZE)
            if os.fstat(self._file).st_size < size:
                os.ftruncate(self._file, size)
            self._memory = mmap.mmap(self._file, size)
        return self._memory


def _spans(sizes: Sequence[int]) -> list[tuple[int, int]]:
    return list(pairwise(accumulate(sizes, initial=0)))


def serve(connection: Connection, memory: SharedMemory) -> None:
    """Answer calls until the parent is gone, or a call ran out of memory."""
    connection.send("ready")
    while True:
        try:
            call = connection.recv_bytes()
        except EOFError:
            return
        buffers: list[pickle.PickleBuffer] = []
        outcome = _outcome(call)
        answer = pickle.dumps(outcome, protocol=5, buffer_callback=buffers.append)
        connection.send((memory.write([buffer.raw() for buffer in buffers]), answer))
        if outcome[0] == "memory":
            return  # what is left of its memory is in pieces


def _outcome(call: bytes) -> Outcome:
    try:
        function, args, kwargs = pickle.loads(call)
        return "returned", function(*args, **kwargs)
    except Exception as error:  # all of them go to the parent, which raises them
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            return "memory", None
        return ("refused", error) if isinstance(error, DecodeError) else ("failed", traceback.format_exc())


def _limit_memory(mib: int) -> None:
    """Let allocations beyond the limit fail; it counts addresses, which Linux hands out by the page."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


def main() -> None:
    """Serve the parent that passed two open files and the limit of memory in MiB."""
    connection, file, mib = map(int, sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a job's signals are sent to all of its processes
        signal.signal(number, signal.SIG_IGN)  # the parent decides what an interruption means
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected, gigabytes on the disk are not
    if sys.platform == "linux":
        # Closing the connection ends an idle child, this ends a hanging one. "Parent" is the thread that started it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        _limit_memory(mib)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # libav talks about every odd bit of a stream
    serve(Connection(connection), SharedMemory(file))


if __name__ == "__main__":
    main()
