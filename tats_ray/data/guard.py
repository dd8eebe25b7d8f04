"""Decoding in a child process: a video that makes libav crash, hang or swell costs its own clip and nothing else."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tats_ray.data.decode import View, decode_views
from tats_ray.data.guard_child import Outcome, SharedMemory
from tats_ray.data.source import DecodeError, VideoSource

P = ParamSpec("P")
T = TypeVar("T")

END_SECONDS = 1.0
"""How long a killed child is waited for; one that hangs in a dead file system stays until that answers."""


class GuardConfig(BaseModel):
    """What the decoding of one video may take."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    decode_seconds: float = Field(default=60.0, gt=0)
    """Seconds that decoding the clips of one video may take; one that takes longer counts as failed."""
    decode_memory_mib: int = Field(default=4096, ge=1024)
    """Address space of a decoding process, in MiB; a video that needs more counts as failed."""


class GuardedDecoder:
    """Decodes in child processes, one for each thread that asks; a ``Decode`` for ``load_clips``.

    A child starts with the first call of its thread and is used for all that follow. After a crash, a hang or too much
    memory the next call starts a fresh one. Children end with their thread; leaving the decoder's context ends them at
    once, even where one hangs.

    Example:
        >>> with GuardedDecoder(GuardConfig(decode_seconds=10)) as decode:
        ...     clips = load_clips(record, config, rng, decode=decode)
    """

    def __init__(self, config: GuardConfig, *, more_memory_mib: int = 0) -> None:
        """Guard by the configuration; children that keep something get ``more_memory_mib`` for it."""
        self._config = config
        self._memory_mib = config.decode_memory_mib + more_memory_mib
        self._of_thread = threading.local()
        self._children: weakref.WeakSet[_Child] = weakref.WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in list(self._children):
            child.kill()

    def __call__(
        self, source: VideoSource, views: Sequence[View], *, frame_size: tuple[int, int], size: int
    ) -> list[np.ndarray]:
        """Do what :func:`decode_views` does.

        Raises:
            DecodeError: The video cannot be decoded, crashed its process, or took too much time or memory.
        """
        return self.call(decode_views, source, views, frame_size=frame_size, size=size)

    def call(
        self, function: Callable[Concatenate[VideoSource, P], T], source: VideoSource, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a function of a module on a video, in the child of this thread.

        Raises:
            DecodeError: The function raised it, crashed its process, or took too much time or memory.
            RuntimeError: The function raised another error, whose traceback is in the message.
        """
        config = self._config
        child = self._child()
        try:
            kind, value = child.ask((function, (source, *args), kwargs), seconds=config.decode_seconds)
        except TimeoutError:
            reason = f"decoding took longer than data.decode_seconds={config.decode_seconds:g}"
            raise DecodeError(source.name, reason) from None
        except (EOFError, ConnectionError):
            raise DecodeError(source.name, f"the decoder crashed ({child.fate()})") from None
        if kind == "memory":
            reason = f"decoding needed more than data.decode_memory_mib={config.decode_memory_mib}"
            raise DecodeError(source.name, reason)
        if kind == "refused":
            raise value
        if kind == "failed":
            raise RuntimeError(f"the process that decodes {source.name} failed:\n{value}")
        return value

    def _child(self) -> "_Child":
        child: _Child | None = getattr(self._of_thread, "child", None)
        if child is None or not child.alive:
            child = self._of_thread.child = _Child(memory_mib=self._memory_mib)
            self._children.add(child)
        return child


class _Child:
    """One child process, for one thread."""

    def __init__(self, *, memory_mib: int) -> None:
        self._connection, theirs = Pipe()
        self._file = _anonymous_file()
        passed = (theirs.fileno(), self._file)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tats_ray.data.guard_child", *map(str, passed), str(memory_mib)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=passed,
            process_group=0,  # Ctrl-C reaches the group of the terminal, even while a child is starting
            env=_environment(),
        )
        theirs.close()
        self._memory = SharedMemory(self._file)
        self.end = weakref.finalize(self, _end, self._process, self._connection, self._file)
        try:
            self._connection.recv()
        except EOFError:
            self.end()
            raise RuntimeError(
                f"a decoding process did not start ({self.fate()}); what it said stands above; data.decode_memory_mib="
                f"{memory_mib} may be too little"
            ) from None

    def kill(self) -> None:
        """End it from another thread; the one that waits for its answer is told at once."""
        self._process.kill()

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self.end.alive and self._process.poll() is None

    def ask(self, call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]], *, seconds: float) -> Outcome:
        """Have a function called.

        Raises:
            TimeoutError: There was no answer in time; the child is ended.
            EOFError, ConnectionError: The child died.
        """
        usable = False
        try:
            self._connection.send(call)
            if not self._connection.poll(seconds):
                raise TimeoutError
            sizes, answer = self._connection.recv()
            outcome: Outcome = pickle.loads(answer, buffers=self._memory.read(sizes))
            usable = outcome[0] != "memory"
            return outcome
        except (EOFError, ConnectionError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)  # so that its own end is told, not ours
            raise
        finally:
            # Whatever went wrong (the caller may have been interrupted), the next call must not get this one's answer.
            if not usable:
                self.end()

    def fate(self) -> str:
        """Say how a child that has ended came to its end."""
        status = self._process.returncode
        if status is None:
            return "its process does not end"
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _end(process: subprocess.Popen[bytes], connection: Connection, file: int) -> None:
    """End a child, whatever it does."""
    connection.close()
    os.close(file)
    with suppress(subprocess.TimeoutExpired):
        process.kill()
        process.wait(END_SECONDS)


def _anonymous_file() -> int:
    """Open a file without a name, in memory where the system can do that."""
    if sys.platform == "linux":
        return os.memfd_create("tats_ray_frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _environment() -> dict[str, str]:
    """Let a child find what this process imports, and start no threads, each of which takes address space."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
