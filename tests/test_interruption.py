import os
import signal
import threading
from collections.abc import Callable

import pytest

from tats_ray.interruption import Terminated, recorded, terminable


def sent(number: signal.Signals, times: int = 1) -> None:
    for _ in range(times):
        signal.raise_signal(number)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_signal_is_one_exception_through_all_blocks(
    number: signal.Signals, error: type[BaseException], depth: int
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    work: Callable[[], None] = lambda: sent(number)  # noqa: E731
    for _ in range(depth):
        work = terminable()(work)
    with pytest.raises(error) as left:
        work()
    assert type(left.value) is error
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_sigterm_does_not_break_the_ending() -> None:
    ended = []

    @terminable()
    def work() -> None:
        try:
            sent(signal.SIGTERM)
        finally:
            sent(signal.SIGTERM, times=2)
            ended.append(True)

    with pytest.raises(Terminated):
        work()
    assert ended


def test_beside_the_main_thread_signals_are_left_alone() -> None:
    seen = []

    @terminable()
    def work() -> None:
        seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, ("FINISHED", None)),
        (ValueError("it is wrong"), ("FAILED", "it is wrong")),
        (SystemExit("by a library"), ("FAILED", "by a library")),
        (KeyboardInterrupt(), ("KILLED", None)),
        (Terminated(), ("KILLED", None)),
    ],
)
def test_every_ending_is_told_once(error: BaseException | None, ending: tuple[str, str | None]) -> None:
    told: list[tuple[str, str | None]] = []

    @recorded(lambda status, reason: told.append((status, reason)))
    def work() -> None:
        if error is not None:
            raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    assert told == [ending]


def test_sigterm_ends_a_wait() -> None:
    @terminable()
    def wait() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(timeout=60)

    with pytest.raises(Terminated):
        wait()
