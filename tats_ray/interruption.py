"""How work ends: a signal becomes an exception, and every ending is recorded as what it was."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Ending = Literal["FINISHED", "FAILED", "KILLED"]


class Terminated(BaseException):
    """SIGTERM arrived."""


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into :class:`Terminated`, so that what was begun is ended properly; may be nested.

    Outside the main thread nothing is changed: a trial of a sweep has its process's signals.
    """
    arrived = False

    def stop(number: int, frame: object) -> None:
        nonlocal arrived
        if not arrived:  # told twice, we are ending already
            arrived = True
            raise KeyboardInterrupt  # the one exception from a signal that Ray's waiting calls let through

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        if arrived:
            raise Terminated from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def recorded(end: Callable[[Ending, str | None], None]) -> Iterator[None]:
    """Tell ``end`` how the block ended: KILLED by a signal, FAILED by any other exception (and its message)."""
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        end("KILLED", None)
        raise
    except BaseException as error:
        end("FAILED", str(error))
        raise
    end("FINISHED", None)
