"""How work ends: a signal asks it to stop, then makes it, and every ending is recorded as what it was."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

Ending = Literal["FINISHED", "FAILED", "KILLED"]

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Of a job or pod that is stopped, of a terminal that is closed."""

PATIENCE_SECONDS = 120.0
"""How long work that was asked to stop may take. Who cannot wait as long kills it, and it is recorded by then."""

_asked = threading.Event()


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived."""


class Stopped(BaseException):
    """Work that was asked to stop has left, at a point from which it can go on."""


def stop_asked(wait: float | None = None) -> bool:
    """Say whether this process was asked to stop what it does; wait so many seconds for it."""
    return _asked.is_set() if wait is None else _asked.wait(wait)


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into :class:`Terminated`, so that what was begun is ended properly; may be nested.

    A SIGHUP that is ignored, by ``nohup``, stays so. Outside the main thread nothing is changed: a trial of a sweep has
    its process's signals.
    """
    arrived = False

    def stop(number: int, frame: object) -> None:
        nonlocal arrived
        if not arrived:  # told twice, we are ending already
            arrived = True
            raise KeyboardInterrupt  # the one exception from a signal that Ray's waiting calls let through

    with _handled(dict.fromkeys(ENDING, stop)):
        try:
            yield
        except KeyboardInterrupt as error:
            if arrived:
                raise Terminated from error
            raise


@contextmanager
def politely(told: Callable[[], None], *, patience: float = PATIENCE_SECONDS) -> Iterator[Callable[[], None]]:
    """Let the first signal only ask the block to stop, by :func:`stop_asked`; inside of :func:`terminable`.

    When the block leaves by :class:`Stopped`, at a second signal, and when its time is up, the signal has the effect
    that it has outside. When the block came to its end all the same, it has none, unless what is yielded is called.

    Args:
        told: Called in a thread of its own when the signal arrives.
        patience: Seconds that the block may take to leave.
    """
    arrived: list[int] = []
    over = threading.Event()
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}

    def arrive(number: int, frame: object) -> None:
        arrived.append(number)
        if len(arrived) == 1:
            _asked.set()
        else:
            _call(before[number], number)

    def take_effect() -> None:
        if arrived:
            _call(before[arrived[0]], arrived[0])

    def watch() -> None:
        _asked.wait()
        if not over.is_set():
            told()
            if not over.wait(patience):
                signal.pthread_kill(threading.main_thread().ident or 0, arrived[0])

    with _handled(dict.fromkeys(before, arrive)) as handled:
        watcher = threading.Thread(target=watch, daemon=True)
        if handled:
            watcher.start()
        try:
            yield take_effect
        except Stopped:
            take_effect()
            raise
        finally:
            over.set()
            if handled:
                _asked.set()
                watcher.join()
                _asked.clear()


def _call(handler: Any, number: int) -> None:
    handler(number, None)


@contextmanager
def _handled(handlers: dict[int, Callable[[int, object], None]]) -> Iterator[bool]:
    """Have signals handled in the block, of those that had an effect; say whether that is possible in this thread."""
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        if before[number] not in (signal.SIG_IGN, None):
            signal.signal(number, handler)
    try:
        yield True
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


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
