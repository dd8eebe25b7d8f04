import os
import signal
import threading
from collections.abc import Callable

import pytest

from tats_ray.interruption import Stopped, Terminated, politely, recorded, stop_asked, terminable

SIGNALS = [(signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated), (signal.SIGINT, KeyboardInterrupt)]


def sent(number: signal.Signals, times: int = 1) -> None:
    for _ in range(times):
        signal.raise_signal(number)


@pytest.mark.parametrize(("number", "error"), SIGNALS)
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


@pytest.mark.parametrize(("number", "error"), SIGNALS)
def test_the_first_signal_asks_and_is_told_and_has_its_effect_when_the_work_has_left(
    number: signal.Signals, error: type[BaseException]
) -> None:
    told = threading.Event()

    @terminable()
    @politely(told.set)
    def work() -> None:
        assert not stop_asked()
        sent(number)
        assert stop_asked()
        assert told.wait(timeout=60)
        raise Stopped

    with pytest.raises(error) as left:
        work()
    assert type(left.value) is error
    assert not stop_asked()


@pytest.mark.parametrize(("number", "error"), SIGNALS)
@pytest.mark.parametrize(("times", "patience"), [(2, 60), (1, 0.01)])
def test_work_that_does_not_leave_is_made_to_by_a_second_signal_or_when_its_time_is_up(
    number: signal.Signals, error: type[BaseException], times: int, patience: float
) -> None:
    @terminable()
    @politely(lambda: None, patience=patience)
    def work() -> None:
        sent(number, times=times)
        threading.Event().wait(timeout=60)
        pytest.fail("it went on")

    with pytest.raises(error):
        work()


def test_work_that_ends_all_the_same_is_not_interrupted_but_what_it_is_a_part_of() -> None:
    done = []

    @terminable()
    def whole() -> None:
        with politely(lambda: None) as interrupt:
            sent(signal.SIGTERM)
        done.append(True)
        interrupt()
        done.append(False)

    with pytest.raises(Terminated):
        whole()
    assert done == [True]
    with politely(lambda: None) as interrupt:
        pass
    interrupt()


def test_a_hang_up_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable(), politely(lambda: pytest.fail("it was heard")):
            sent(signal.SIGHUP)
            assert not stop_asked()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
