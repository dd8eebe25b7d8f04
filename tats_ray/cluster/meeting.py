"""Where a training in a thread and whoever decides about it wait for each other."""

import queue
import threading
from collections.abc import Callable
from typing import Any

Report = dict[str, Any]

LEAVE_SECONDS = 60.0
"""How long a training that is told to leave may take to close its files."""


class Left(KeyboardInterrupt):
    """A training was told to leave; its run is recorded as interrupted, and can go on from its last checkpoint."""


class Meeting:
    """Runs a function in a thread that stops at every report it makes, until it is told to go on or to leave.

    Args:
        work: Given :meth:`report`; what it returns is its last report.
    """

    def __init__(self, work: Callable[[Callable[[Report], None]], Report]) -> None:
        self._work = work
        self._told: queue.SimpleQueue[Report | Exception] = queue.SimpleQueue()
        self._goes_on: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="trial", daemon=True)
        self._waits = False  # for an answer to its last report

    def advance(self) -> Report:
        """Let the function go on to its next report, and return that.

        Raises:
            Exception: What the function raised.
        """
        if self._waits:
            self._goes_on.put(True)
        else:
            self._thread.start()
        told = self._told.get()
        self._waits = True
        if isinstance(told, Exception):
            raise told
        return told

    def leave(self) -> None:
        """Have :class:`Left` raised where the function waits, and wait until it has left."""
        if self._thread.is_alive():
            self._goes_on.put(False)
            self._thread.join(LEAVE_SECONDS)

    def report(self, report: Report) -> None:
        """Tell the other side, and wait for its answer; called by the function.

        Raises:
            Left: The answer is to leave.
        """
        self._told.put(report)
        if not self._goes_on.get():
            raise Left

    def _run(self) -> None:
        try:
            self._told.put(self._work(self.report))
        except Left:
            return
        except Exception as error:
            self._told.put(error)  # raised where somebody waits for it
