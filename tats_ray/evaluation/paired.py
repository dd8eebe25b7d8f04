"""Whether one sampler beats another: differences of runs that share a seed, and what they allow to say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["better", "worse", "cannot tell"]

_HALVINGS = 100  # of an angle: beyond float64
_NO_SPREAD = 1e-9


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval."""

    mean: float
    low: float
    """Minus infinity where one value says nothing of the spread."""
    high: float
    """Plus infinity there."""
    n: int
    """Values that the mean is taken over."""


def paired_interval(differences: Sequence[float], *, level: float = 0.95) -> Interval:
    """Return the mean difference and its interval by Student's t: ``mean +- t s / sqrt(n)``.

    Pairing takes away what runs of one seed share: initial weights, order of data, test videos. The interval supposes
    that differences of seeds are normal, which the mean of many test videos is nearly.

    Args:
        differences: One for each seed, such as the top1 of one sampler minus that of another.
        level: Confidence, in (0, 1).

    Raises:
        ValueError: No differences, one that is not finite, or ``level`` outside (0, 1).
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"differences must be one or more finite numbers, got {list(differences)}; leave out seeds without a result"
        )
    n, mean = values.size, float(values.mean())
    t = t_quantile(level, degrees=max(1, n - 1))
    half = t * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n)


def verdict(interval: Interval) -> Verdict:
    """Say what the interval allows, for differences where more is better.

    "better" and "worse" need two seeds and an interval that leaves out 0. Equal differences of all seeds have an
    interval without width: accuracies that are counts over few videos come out equal by chance, so that is "cannot
    tell" too.
    """
    width = interval.high - interval.low
    scale = max(abs(interval.low), abs(interval.high))
    if interval.n < 2 or not math.isfinite(width) or width <= _NO_SPREAD * scale:
        return "cannot tell"
    if interval.low > 0:
        return "better"
    return "worse" if interval.high < 0 else "cannot tell"


def t_quantile(level: float, *, degrees: int) -> float:
    """Return the t with ``P(|T| <= t) = level`` for Student's distribution of whole ``degrees`` of freedom.

    Args:
        level: In (0, 1).
        degrees: At least 1.

    Raises:
        ValueError: An argument is out of its range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}; 0.95 is customary")
    if degrees < 1:
        raise ValueError(f"degrees must be at least 1, got {degrees}")
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _share_within(middle, degrees=degrees) < level else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _share_within(angle: float, *, degrees: int) -> float:
    """Return ``P(|T| <= sqrt(degrees) tan(angle))``.

    For whole degrees of freedom it is a finite sum: Abramowitz and Stegun 1964, equations 26.7.3 and 26.7.4.
    """
    cos, sin = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term, total = (cos, 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cos * cos * k / (k + 1)
    return 2 / math.pi * (angle + sin * total) if odd else sin * total
