"""Records a run from a thread of its own, by way of files in the run's folder: training never waits for the store."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from tats_ray.tracking.store import without_credentials
from tats_ray.tracking.unsent import Unsent

CLOSE_SECONDS = 10.0
"""The longest that a record holds up its run, and only when it is closed: recording a point or a file costs the writing
of one line to the run's folder, whatever the store does. What is not sent by then stays in that folder."""

RETRY_SECONDS = 5.0
"""How long a store that was locked or away is left in peace before it is asked again."""

POINTS_FILE, FILES_FILE = "unsent.jsonl", "unsent_files.jsonl"
"""Names, in the run's folder, of what waits; a file that cannot be stored does not hold up the points."""

_CALLS_AT_ONCE = 100  # bounds the memory that a long outage takes in the end
_POINTS_AT_ONCE = 1000  # MLflow's limit of one request

_logger = logging.getLogger(__name__)


class Point(NamedTuple):
    """One value of one metric; its time is part of its identity."""

    name: str
    value: float
    milliseconds: int
    step: int


class Store(Protocol):
    """What sending asks of a store; every call may raise whatever its client raises."""

    def last_steps(self) -> Mapping[str, int]:
        """Return the highest step of each metric that has one."""
        ...

    def send_points(self, points: Sequence[Point]) -> None:
        """Store all of at most 1000 points, or none; one that is there already, with its time, is not doubled."""
        ...

    def send_file(self, path: Path, folder: str) -> None:
        """Store a file; one of the same name in the same folder is replaced."""
        ...


class Sender:
    """Brings to the store what waits in a run's folder, in its order; the steps of a metric strictly increase.

    Args:
        store: Of one run.
        folder: Of that run.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.points, self.files = Unsent(folder / POINTS_FILE), Unsent(folder / FILES_FILE)
        self.lost_files = 0
        self._store = store
        self._last_steps: Mapping[str, int] | None = None

    @property
    def waiting(self) -> bool:
        """Whether anything is left to be sent."""
        return self.points.waiting or self.files.waiting

    @property
    def lost(self) -> int:
        """How much will never be sent."""
        return self.points.lost + self.files.lost + self.lost_files

    def send(self) -> str | None:
        """Send all that waits; return why the store did not take it, without credentials, or None."""
        try:
            self._send_points()
            self._send_files()
        except Exception as error:
            # Broad on purpose: stores raise what their clients raise (requests, sqlalchemy, boto3, the file system),
            # and a run that has cost hours outlives its record.
            return without_credentials(str(root_cause(error)))
        return None

    def _send_points(self) -> None:
        while entries := self.points.read(_CALLS_AT_ONCE):
            if self._last_steps is None:  # of an earlier process: a stretch of steps is trained again after a restart
                self._last_steps = self._store.last_steps()
            new, last_steps = _increasing(_points(entries), self._last_steps)
            for start in range(0, len(new), _POINTS_AT_ONCE):
                self._store.send_points(new[start : start + _POINTS_AT_ONCE])
            self._last_steps = last_steps
            self.points.take_off()

    def _send_files(self) -> None:
        while entries := self.files.read(1):
            path = Path(entries[0]["path"])
            if path.is_file():
                self._store.send_file(path, entries[0]["folder"])
            else:
                self.lost_files += 1
            self.files.take_off()


class BackgroundTracker:
    """Records one run from the first worker; training never stops for it.

    What is recorded is written to the run's folder at once and sent by a thread. Whatever the store does, it is sent
    once: when the store is back, at the end of the run, or when the run goes on after its process was killed.

    Args:
        store: Of the run.
        run_id: Names the run in warnings and in what waits.
        folder: Of the run; it exists.
        retry_seconds: Between two tries at a store that is locked or away.
        close_seconds: How long :meth:`close` waits at most.
    """

    def __init__(
        self,
        store: Store,
        *,
        run_id: str,
        folder: Path,
        retry_seconds: float = RETRY_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._run_id, self._folder = run_id, folder
        self._retry_seconds, self._close_seconds = retry_seconds, close_seconds
        self._sender = Sender(store, folder)
        self._work, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"record of {run_id}", daemon=True)
        self._thread.start()

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record one point of each metric; costs the writing of a line."""
        values = {name: float(value) for name, value in metrics.items()}
        # A point keeps its time, by which the store knows a retried one.
        entry = {"run_id": self._run_id, "time": int(time.time() * 1000), "step": step, "metrics": values}
        self._sender.points.append(entry)
        self._work.set()

    def log_file(self, path: Path, *, folder: str) -> None:
        """Record a file in a folder of the run's artifacts; costs the writing of a line.

        Raises:
            ValueError: There is no such file.
        """
        if not path.is_file():
            raise ValueError(f"path must be an existing file, got {path}")
        self._sender.files.append({"run_id": self._run_id, "path": str(path.absolute()), "folder": folder})
        self._work.set()

    def close(self) -> None:
        """Send what waits, with a last try at a store that was away; returns in ``CLOSE_SECONDS`` whatever happens."""
        self._sender.points.flush()
        self._sender.files.flush()
        self._closing.set()
        self._work.set()
        self._thread.join(self._close_seconds)
        if self._sender.waiting:
            _logger.warning(
                "MLflow run %s lacks what waits in %s; it is sent when the run ends or goes on, or else by the next "
                "run below the same results",
                self._run_id,
                self._folder / "unsent*.jsonl",
            )
        if lost := self._sender.lost:
            _logger.warning("MLflow run %s lacks %d points and files that could not be kept", self._run_id, lost)

    def _run(self) -> None:
        away = False
        while True:
            last_time = self._closing.is_set()
            reason = self._sender.send()  # at once: an earlier process may have left something
            if reason is not None and not away:
                _logger.warning(
                    "MLflow does not take run %s's points (%s); they wait in %s and training goes on",
                    self._run_id,
                    reason,
                    self._folder / POINTS_FILE,
                )
            away = reason is not None
            if last_time:
                return
            if away:
                self._closing.wait(self._retry_seconds)
            else:
                self._work.wait()
                self._work.clear()


def root_cause(error: BaseException) -> BaseException:
    """Follow the chain of causes."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return error


def _points(entries: Sequence[Mapping]) -> Iterator[Point]:
    for entry in entries:
        for name, value in entry["metrics"].items():
            yield Point(name, value, entry["time"], entry["step"])


def _increasing(points: Iterator[Point], last_steps: Mapping[str, int]) -> tuple[list[Point], dict[str, int]]:
    """Leave out points at or below the last step of their metric; return the rest, and the last steps after them."""
    last, new = dict(last_steps), []
    for point in points:
        if point.step > last.get(point.name, -1):
            last[point.name] = point.step
            new.append(point)
    return new, last
