"""The terminal while a run trains: one bar, or a plain line now and then where nobody can see a bar."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_PLAIN_SECONDS = 30.0
_RATE_UPDATES = 30


@dataclass(frozen=True)
class ProgressState:
    """Where a run stands."""

    step: int
    """Training steps done, from the start of the run."""
    total_steps: int
    loss: float
    """Reconstruction loss of the last step."""
    clips_per_second: float
    """Over all workers."""
    wait_share: float
    """Share of the time spent waiting for data, 0 to 1."""
    mfu: float
    """Counted FLOPs of training over what the devices can do, 0 to 1."""
    seconds: float
    """Since this process began to train."""
    stage: str
    """What is being trained, in a word: "random", "critic", "policy"."""
    failed_clips: int = 0
    """Clips that could not be decoded, from the start of the run."""


class ProgressBar:
    """A bar on a terminal; elsewhere (job logs, files) the first state, one every 30 s, and the last, a line each.

    Args:
        console: Where to draw; standard error when None.
        clock: Seconds, for the pace of the plain lines.
    """

    def __init__(self, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._recent: deque[ProgressState] = deque(maxlen=_RATE_UPDATES)
        self._printed: ProgressState | None = None
        self._printed_at = 0.0
        self._bar = Progress(
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=None),  # takes the room that the words leave
            TextColumn("{task.fields[text]}"),
            console=self._console,
            expand=True,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None, text="")

    def __enter__(self) -> "ProgressBar":
        """Draw the bar, where it can be seen."""
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Replace the bar by a last line."""
        if self._console.is_terminal:
            self._bar.stop()
        if self._recent and self._recent[-1] != self._printed:
            self._print(self._recent[-1])

    def update(self, state: ProgressState) -> None:
        """Show a state; cheap enough for every step."""
        self._recent.append(state)
        if self._console.is_terminal:
            self._bar.update(
                self._task,
                description=state.stage,
                total=state.total_steps,
                completed=state.step,
                text=self._text(state),
            )
        elif self._printed is None or self._clock() - self._printed_at >= _PLAIN_SECONDS:
            self._print(state)

    def _print(self, state: ProgressState) -> None:
        self._console.print(f"{state.stage}  {self._text(state)}", highlight=False, markup=False, soft_wrap=True)
        self._printed, self._printed_at = state, self._clock()

    def _text(self, state: ProgressState) -> str:
        parts = [
            f"{state.step}/{state.total_steps}",
            f"loss {state.loss:.3f}",
            f"{_rate(state.clips_per_second)} clips/s",
            f"wait {100 * state.wait_share:.0f}% mfu {100 * state.mfu:.0f}%",
        ]
        remaining = self._remaining_seconds()
        if remaining is not None:
            parts.append(f"{timedelta(seconds=round(remaining))} left")
        return "  ".join(parts)

    def _remaining_seconds(self) -> float | None:
        """Go by the pace of the last updates, since stages differ in speed; None where there is no pace or no rest."""
        first, last = self._recent[0], self._recent[-1]
        if last.step <= first.step or last.step >= last.total_steps:
            return None
        return (last.total_steps - last.step) * (last.seconds - first.seconds) / (last.step - first.step)


def _rate(value: float) -> str:
    """Three digits are enough of a small number; a large one is not rounded away into an exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
