"""Checkpoints in the background: training waits for the copy to the host, a thread writes, and old ones go."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Literal

from tats_ray.mirror import send
from tats_ray.training.context import WorkerContext
from tats_ray.training.state import (
    Captured,
    CheckpointError,
    checkpoint_measured,
    checkpoint_step,
    checkpoints,
    remove_checkpoint,
    write_checkpoint,
)


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the newest, the best by a metric of its last validation, those after given steps."""

    keep: int
    best: str | None = None
    mode: Literal["min", "max"] = "min"
    after: tuple[int, ...] = ()

    def apply(self, root: Path) -> None:
        """Remove the rest; the newest is never among it."""
        found = checkpoints(root)
        kept = {*found[-self.keep :], self._best(found), *(first_after(found, step) for step in self.after)}
        for folder in found:
            if folder not in kept:
                remove_checkpoint(folder)

    def _best(self, found: Sequence[Path]) -> Path | None:
        if self.best is None:
            return None
        values = {folder: value for folder in found if isfinite(value := _measured(folder, self.best))}
        sign = 1 if self.mode == "min" else -1
        return min(reversed(values), key=lambda folder: sign * values[folder], default=None)  # of equals the newest


def first_after(found: Sequence[Path], step: int) -> Path | None:
    """Return the first checkpoint at or after a step, of ``found`` from oldest to newest."""
    return next((folder for folder in found if checkpoint_step(folder) >= step), None)


class Checkpointer:
    """Writes one worker's checkpoints, one at a time; all workers call its methods alike, the first one writes.

    As a context manager it waits for a write that was begun, however the block ends. The launcher is told of a
    checkpoint when the next one is due, or at the end: only ever of one that lies complete on disk. A launcher that
    awaits checkpoints is told at once, and training waits for the write. What it was told does not matter for a
    restart, which takes the newest complete folder. Where results lie at a URI, files ``beside`` them are sent there
    with each.
    """

    def __init__(
        self, root: Path, context: WorkerContext, retention: Retention, *, beside: Sequence[Path] = ()
    ) -> None:
        self._root = root
        self._context = context
        self._retention = retention
        self._beside = beside
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None  # of the first worker
        self._captured: Captured | None = None  # its memory is kept for the next
        self._untold: Mapping[str, float] | None = None  # metrics of the last checkpoint, until the launcher knows it

    def __enter__(self) -> "Checkpointer":
        """Nothing to prepare."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the write; if it fails as well, the exception that is on its way says so."""
        self._thread.shutdown(wait=True)
        failure = None if self._writing is None else self._writing.exception()
        if error is not None and failure is not None:
            error.add_note(str(failure))

    @property
    def failed(self) -> bool:
        """Whether a write has failed, as far as this worker knows; :meth:`settle` then raises on all of them."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    @property
    def writing(self) -> bool:
        """Whether a write is under way on this worker."""
        return self._writing is not None and not self._writing.done()

    def save(self, take: Callable[[Captured | None], Captured], *, measured: Mapping[str, float]) -> None:
        """Begin to write what ``take`` copies, after the write before is done and told; the copy before is given to it.

        Raises:
            CheckpointError: The write before failed; on all workers.
        """
        self.settle()
        if self._context.rank == 0:
            self._captured = take(self._captured)
            self._writing = self._thread.submit(self._write, self._captured)
        self._untold = dict(measured)
        if self._context.awaits_checkpoints:
            self.settle()

    def settle(self) -> None:
        """Wait for the write that was begun, and tell the launcher of the checkpoint.

        Raises:
            CheckpointError: It failed; on all workers.
        """
        if self._untold is None:
            return
        measured, self._untold = self._untold, None
        writing, self._writing = self._writing, None
        folder, failure = self._root, None
        if writing is not None:
            try:
                folder = writing.result()
            except CheckpointError as error:
                failure = str(error)
        for reason in self._context.all_gather(failure):
            if reason is not None:
                raise CheckpointError(reason)
        self._context.checkpointed(folder, measured)

    def _write(self, captured: Captured) -> Path:
        folder = write_checkpoint(self._root, captured)
        try:
            self._retention.apply(self._root)
        except OSError as error:
            raise CheckpointError(
                f"an old checkpoint could not be removed: {error}; make its folder writable, then start the run again: "
                f"{folder} is intact"
            ) from error
        try:
            for path in self._beside:
                send(path)
        except OSError as error:
            raise CheckpointError(f"{error}; start the run again: the checkpoint {folder} is intact") from error
        return folder


def _measured(folder: Path, metric: str) -> float:
    """Return what a checkpoint measured; NaN where that is not known."""
    try:
        return checkpoint_measured(folder).get(metric, float("nan"))
    except CheckpointError:  # a damaged one is not the best; whoever loads it is told
        return float("nan")
