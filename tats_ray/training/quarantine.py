"""Clips that are lost: one table of a run names every one with its reason, and says when they are too many."""

import csv
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from tats_ray.data.places import whole
from tats_ray.mirror import fetch
from tats_ray.tracking.store import without_credentials
from tats_ray.training.context import WorkerContext

GRACE_CLIPS = 1000
"""The share of failed clips is taken of at least this many, so that an early failure does not end a run."""
HELD_OUT_STEP = 0
"""Step under which held-out videos are listed; those of training begin at 1."""
HEADER = ("time", "step", "path", "reason")

Failure = tuple[str, str]
"""Path and reason."""
OnError = Literal["skip", "fail"]


class DataLossError(Exception):
    """More clips than allowed could not be decoded, or there are none left."""


class Quarantine:
    """``quarantine.csv`` of a run: when, at which step, which file, why; made with the first failure, by rank 0.

    Args:
        path: The table; what an earlier life of the run wrote there up to ``step`` stays.
        context: All workers call alike.
        step: Steps done; the ones after it are trained again, and list their failures again.
        on_error: Whether the first failure ends the run.
        max_failed_share: Of the clips so far, or of 1,000, above which failures end the run.
    """

    def __init__(
        self, path: Path, context: WorkerContext, *, step: int, on_error: OnError, max_failed_share: float
    ) -> None:
        self.path = path
        self._context = context
        self._on_error: OnError = on_error
        self._max_failed_share = max_failed_share
        self._news = False
        if context.rank == 0 and fetch(path):
            self._keep_until(step)

    def add(self, failures: Sequence[Failure], *, step: int) -> int:
        """List the failures of all workers, each of which gives its own; return their number.

        Raises:
            DataLossError: The first failure, where one is too many.
        """
        parts: list[Sequence[Failure]] = self._context.all_gather(list(failures))  # type: ignore[assignment]
        every = [failure for part in parts for failure in part]
        if not every:
            return 0
        if self._context.rank == 0:
            self._append(every, step=step)
        if self._on_error == "fail":
            path, reason = every[0]
            raise DataLossError(
                f"{path} could not be decoded: {reason}; data.on_error=fail ends the run at the first such clip: index "
                f"the videos again, or leave such clips out with data.on_error=skip"
            )
        return len(every)

    def check(self, failed: int, *, clips: int) -> None:
        """Refuse to go on when too many are lost.

        Raises:
            DataLossError: More than ``max_failed_share`` of the clips so far.
        """
        if failed > self._max_failed_share * max(clips, GRACE_CLIPS):
            raise DataLossError(
                f"{failed} of {clips} clips could not be decoded, more than data.max_failed_share="
                f"{self._max_failed_share} allows; the files and reasons are in {self.path}: index the videos again, "
                f"or allow a larger share"
            )

    def has_news(self) -> bool:
        """Whether the table grew since the last call; on rank 0."""
        news, self._news = self._news, False
        return news

    def _append(self, failures: Sequence[Failure], *, step: int) -> None:
        known = set(self._known(step)) if step == HELD_OUT_STEP else set()
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        shown = [(without_credentials(path), without_credentials(reason)) for path, reason in failures]
        rows = [(now, step, *failure) for failure in shown if failure not in known]
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows([HEADER, *rows] if new else rows)
        self._news = self._news or bool(rows)

    def _known(self, step: int) -> list[Failure]:
        return [(path, reason) for _, at, path, reason in self._rows() if int(at) == step]

    def _rows(self) -> list[list[str]]:
        """Return the whole rows; a killed process may have left half of one."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return [row for row in csv.reader(file) if len(row) == len(HEADER) and row[1].isdigit()]

    def _keep_until(self, step: int) -> None:
        kept = [row for row in self._rows() if int(row[1]) <= step]
        with whole(self.path) as unfinished, unfinished.open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, *kept])
