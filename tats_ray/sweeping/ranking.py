"""Which configurations did best: means over seeds, at equal steps or at equal FLOPs, and why a trial does not count."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any, Literal

from tats_ray.sweeping.acting import inactive_reason
from tats_ray.sweeping.trials import Point, Trial

At = Literal["steps", "flops"]
Mode = Literal["min", "max"]

_SAME = 1e-9  # relative; counted FLOPs are sums of floats


@dataclass(frozen=True)
class LeftOut:
    """A trial that is not ranked."""

    trial: Trial
    how: str
    """Its status, or ``inactive``, or ``no value``."""
    reason: str


@dataclass(frozen=True)
class Configuration:
    """Trials of equal knobs: what they scored, seed by seed."""

    rank: int
    """From 1; equal means share one."""
    knobs: Mapping[str, Any]
    scores: Mapping[int, tuple[Trial, Point]]
    """By seed: the trial, and the point of its curve that counts."""
    left_out: Sequence[LeftOut]
    """Its trials that do not count; then the mean is that of the other seeds."""
    stopped_at: int | None
    """The step at which a scheduler stopped the first of its seeds."""

    @property
    def values(self) -> dict[int, float]:
        """The metric by seed."""
        return {seed: point.value for seed, (_, point) in self.scores.items()}

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.values.values())

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None of one."""
        return stdev(self.values.values()) if len(self.scores) > 1 else None


@dataclass(frozen=True)
class Ranking:
    """Configurations, best first, and all trials that do not count."""

    metric: str
    mode: Mode
    at: At
    configurations: Sequence[Configuration]
    left_out: Sequence[LeftOut]
    rule: str
    """Where the values were taken, in a sentence."""

    @property
    def best(self) -> Configuration | None:
        """The first; None where nothing is ranked."""
        return self.configurations[0] if self.configurations else None


def rank(trials: Iterable[Trial], *, metric: str, mode: Mode, at: At = "steps", kind: str | None = None) -> Ranking:
    """Rank configurations by the mean of a metric over their seeds.

    At equal steps the last step that all have decides, at equal FLOPs the largest count that all have; a trial's value
    is that of its last validation at or below it. *All* are those that count and went to their end.

    A configuration with a stopped seed stands below those without, whatever its value: a mean over the seeds that were
    let go on would be one over the lucky ones. It is taken where the first of its seeds was stopped; the further that
    is, the higher it stands. A failed or interrupted seed is left out of the mean, and the row says so.

    Args:
        trials: All of the sweep.
        metric: Name of what the curves hold, for the sentences.
        mode: Whether small or large values are good.
        at: What is to be equal.
        kind: Of the base run's sampler; see :func:`tats_ray.sweeping.acting.inactive_reason`.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(_key(trial.knobs), []).append(trial)
    left_out = {
        trial.name: found
        for group in groups.values()
        for trial in group
        if (found := _why_left_out(trial, metric=metric, kind=kind)) is not None
    }
    counted = [[trial for trial in group if trial.name not in left_out] for group in groups.values()]
    whole = [group for group in counted if group and not _stopped(group)]
    level = min((_reach(trial.curve[-1], at) for group in whole for trial in group), default=math.inf)
    found = []
    for group, counting in zip(groups.values(), counted, strict=True):
        stopped_at = min(trial.curve[-1].step for trial in counting) if _stopped(counting) else None
        scores = {}
        for trial in counting:
            point = _at(trial, level, at) if stopped_at is None else _at(trial, stopped_at, "steps")
            if point is None or not math.isfinite(point.value):
                left_out[trial.name] = _no_value(trial, point, metric=metric, level=level)
            else:
                scores[trial.seed] = (trial, point)
        if scores:
            missing = [left_out[trial.name] for trial in group if trial.name in left_out]
            found.append(Configuration(0, group[0].knobs, dict(sorted(scores.items())), missing, stopped_at))
    ranked = _ranked(found, mode=mode)
    return Ranking(metric, mode, at, ranked, list(left_out.values()), _rule(ranked, level=level, at=at))


def _why_left_out(trial: Trial, *, metric: str, kind: str | None) -> LeftOut | None:
    if trial.status not in ("finished", "stopped"):
        return LeftOut(trial, trial.status, trial.reason or "no reason was recorded")
    inactive = inactive_reason(trial, trial.knobs, kind=kind)
    if inactive is not None:
        return LeftOut(trial, "inactive", inactive)
    last = trial.curve[-1] if trial.curve else None
    if last is None or not math.isfinite(last.value):  # of one that diverged, an earlier value says nothing
        return _no_value(trial, last, metric=metric, level=math.inf)
    return None


def _no_value(trial: Trial, point: Point | None, *, metric: str, level: float) -> LeftOut:
    if point is not None:
        return LeftOut(trial, "no value", f"its {metric} is {point.value} at step {point.step}")
    if trial.curve:
        return LeftOut(
            trial, "no value", f"its first {metric} came after {level / 1e12:.4g} TFLOPs, which others end at"
        )
    return LeftOut(trial, "no value", f"it has no {metric}")


def _reach(point: Point, at: At) -> float:
    return point.step if at == "steps" else point.flops


def _at(trial: Trial, level: float, at: At) -> Point | None:
    """Return the last point at or below a level."""
    reached = [point for point in trial.curve if _reach(point, at) <= level * (1 + _SAME)]
    return reached[-1] if reached else None


def _stopped(group: Sequence[Trial]) -> bool:
    return any(trial.status == "stopped" for trial in group)


def _ranked(found: Sequence[Configuration], *, mode: Mode) -> list[Configuration]:
    sign = 1 if mode == "min" else -1

    def place(one: Configuration) -> tuple[float, float]:
        return (-math.inf if one.stopped_at is None else -one.stopped_at, sign * one.mean)

    ranked: list[Configuration] = []
    for number, one in enumerate(sorted(found, key=place), start=1):  # stable: of equals, the first declared
        tied = bool(ranked) and place(ranked[-1]) == place(one)
        ranked.append(replace(one, rank=ranked[-1].rank if tied else number))
    return ranked


def _rule(ranked: Sequence[Configuration], *, level: float, at: At) -> str:
    whole = [one for one in ranked if one.stopped_at is None]
    steps = sorted({point.step for one in whole for _, point in one.scores.values()})
    parts = []
    if steps:
        taken = f"step {steps[0]:,}" if len(steps) == 1 else f"steps {steps[0]:,} to {steps[-1]:,}"
        if at == "flops":
            parts.append(
                f"Equal FLOPs: each trial's last validation at or below {level / 1e12:.4g} TFLOPs of training, the "
                f"most that all of them have ({taken})."
            )
        elif len(steps) == 1:
            parts.append(f"Equal steps: values at {taken}, the last that all of them have.")
        else:
            parts.append(f"Equal steps: each trial's last validation at or below step {level:,.0f} ({taken}).")
    if len(whole) < len(ranked):
        parts.append(
            "Configurations of which a seed was stopped stand below the others, the later the higher, each with its "
            "values where the first of its seeds was stopped."
        )
    return " ".join(parts)


def _key(knobs: Mapping[str, Any]) -> str:
    return json.dumps(knobs, sort_keys=True, default=str)
