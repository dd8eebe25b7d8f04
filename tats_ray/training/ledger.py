"""Where the wall time of training goes: exclusive shares of its parts, and FLOPs against what the device can do.

On a GPU kernels run behind the program, so the ledger notes the time on the device's own clock: events are put into its
stream where a part begins and ends, and read when somebody asks. No step waits for that.
"""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Any, Literal, Protocol

import torch

Part = Literal[
    "wait", "transfer", "autoencoder", "sampler", "optimizer", "validation", "checkpoint", "logging", "other"
]
PARTS: tuple[Part, ...] = (
    "wait", "transfer", "autoencoder", "sampler", "optimizer", "validation", "checkpoint", "logging", "other",
)  # fmt: skip


class Clock(Protocol):
    """Notes moments now, and tells later how long it was between them."""

    def now(self) -> Any:
        """Note this moment."""
        ...

    def between(self, moments: Sequence[Any]) -> list[float]:
        """Return the seconds from each moment to the next."""
        ...


class HostClock:
    """The program's clock: on a CPU a call is over when it returns."""

    def __init__(self, read: Callable[[], float] = time.perf_counter) -> None:
        self.now = read

    def between(self, moments: Sequence[float]) -> list[float]:
        """Return the seconds from each moment to the next."""
        return [after - before for before, after in pairwise(moments)]


class CudaClock:
    """The clock of a GPU's stream; a moment is when the kernels before it are done."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> torch.cuda.Event:
        """Put an event into the stream; nothing waits for it."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def between(self, moments: Sequence[torch.cuda.Event]) -> list[float]:
        """Return the seconds from each moment to the next, once the device has reached the last."""
        moments[-1].synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in pairwise(moments)]


def clock_of(device: torch.device) -> Clock:
    """Return the clock by which work on a device is timed."""
    return CudaClock(device) if device.type == "cuda" else HostClock()


class Ledger:
    """Books every moment from :meth:`start` on under one part: that of the innermost open span, else "other".

    Before the start, spans cost nothing and book nothing.

    Example:
        >>> ledger = Ledger(HostClock())
        >>> ledger.start({})
        >>> with ledger.span("autoencoder"):
        ...     pass
        >>> set(ledger.read()) == set(PARTS)
        True
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: list[Part] = ["other"]
        self._borders: list[tuple[Any, Part]] = []  # from that moment on, time belongs to that part
        self._window: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
        self._totals: dict[str, float] = {}

    def start(self, totals: dict[str, float]) -> None:
        """Begin to book; ``totals``, seconds by part, are those of the run so far and are added to in place."""
        for part in PARTS:
            totals.setdefault(part, 0.0)
        self._totals = totals
        self._window = dict.fromkeys(PARTS, 0.0)
        self._borders = [(self._clock.now(), self._open[-1])]

    def span(self, part: Part) -> "Span":
        """Book what happens inside a ``with`` block under ``part``, but for what spans inside it book."""
        return Span(self, part)

    def settle(self) -> None:
        """Bring the totals up to date; on a GPU this waits for it."""
        end = (self._clock.now(), self._open[-1])
        seconds = self._clock.between([moment for moment, _ in (*self._borders, end)])
        for (_, part), taken in zip(self._borders, seconds, strict=True):
            self._window[part] += taken
            self._totals[part] += taken
        self._borders = [end]

    def read(self) -> dict[Part, float]:
        """Return the seconds of each part since the last reading; on a GPU this waits for it."""
        self.settle()
        window, self._window = self._window, dict.fromkeys(PARTS, 0.0)
        return window

    def enter(self, part: Part) -> None:
        """Open a span; called by :class:`Span`."""
        self._open.append(part)
        if self._borders:
            self._borders.append((self._clock.now(), part))

    def leave(self) -> None:
        """Close the innermost span; called by :class:`Span`."""
        self._open.pop()
        if self._borders:
            self._borders.append((self._clock.now(), self._open[-1]))


class Span:
    """One ``with`` block of a ledger."""

    __slots__ = ("_ledger", "_part")

    def __init__(self, ledger: Ledger, part: Part) -> None:
        self._ledger = ledger
        self._part: Part = part

    def __enter__(self) -> None:
        """From now on, time is the part's."""
        self._ledger.enter(self._part)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """From now on, time is that of the span around this one."""
        self._ledger.leave()


def matmul_flops(device: torch.device, dtype: torch.dtype, *, repeats: int = 5) -> float:
    """Measure the floating-point operations a second of a plain matrix product, the yardstick of ``throughput/mfu``.

    Takes some hundredths of a second. Vendors' figures are for other clocks and other cooling, and CPUs have none.
    """
    size = 8192 if device.type == "cuda" else 512
    noise = torch.Generator(device).manual_seed(0)  # of ones, a GPU draws less power and clocks higher
    left, right = (torch.rand(size, size, generator=noise, device=device).to(dtype) for _ in range(2))
    clock = clock_of(device)
    for _ in range(2):  # starts the library and its threads up
        torch.mm(left, right)
    moments = [clock.now()]
    for _ in range(repeats):
        torch.mm(left, right)
        moments.append(clock.now())
    return 2 * size**3 / min(clock.between(moments))
