"""What the driver of a sweep notes while Tune runs it: endings in the journal, progress and clones on the terminal."""

from pathlib import Path
from typing import Any

from ray import tune
from rich.progress import Progress, TaskID

from tats_ray.sweeping.journal import Journal, SchedulerName
from tats_ray.sweeping.trials import Trial, TrialStatus


class Recorder(tune.Callback):
    """Called by Tune in the driver's process."""

    def __init__(
        self, journal: Journal, scheduler: SchedulerName, *, metric: str, progress: Progress, task: TaskID
    ) -> None:
        self._journal = journal
        self._metric = metric
        self._scheduler = scheduler
        self._progress = progress
        self._task = task
        self._segments: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restored sweep; a bar belongs to this terminal

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict, **info: Any) -> None:
        """Say when a trial has taken over another's training."""
        name, number = str(trial), result.get("segments", 0)
        known = self._segments.setdefault(name, number)
        if number > known:
            self._segments[name] = number
            segment = self._journal.segments(name)[-1]
            knobs = ", ".join(f"{path}={_short(value)}" for path, value in segment.knobs.items())
            self._progress.console.print(
                f"trial {name} goes on from trial {segment.donor} at step {segment.step}, with {knobs}", highlight=False
            )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Write down that a trial came to its end, failed by its own fault, or was stopped."""
        last = trial.last_result or {}
        if "failed" in last:
            self._end(trial, "failed", last["failed"])
        elif "checkpoint" in last:  # a report on the way, and not the last one
            self._end(trial, "stopped", f"{self._scheduler} stopped it at step {last['step']}")
        else:
            self._end(trial, "finished", None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Write down that a trial was lost more often than is allowed, or that Tune could not run it."""
        # As Tune wrote it just now; trial.get_error() reads a copy of that, which may come later.
        self._end(trial, "failed", last_line(Path(trial.error_file).read_text()))

    def _end(self, trial: Any, status: TrialStatus, reason: str | None) -> None:
        config = trial.config["trial"]
        last = trial.last_result or {}
        self._journal.end(
            Trial(
                str(trial),
                config["knobs"],
                config["seed"],
                status=status,
                reason=reason,
                metrics={self._metric: last[self._metric]} if self._metric in last else {},
            )
        )
        self._progress.update(self._task, advance=1)


def last_line(error: BaseException | str) -> str:
    """Return what an error that crossed processes, or its text, says in the end."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
