"""Where the values of a knob lie on an axis: by size, by logarithm, or side by side."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from matplotlib.ticker import LogLocator, MaxNLocator

from tats_ray.tracking.chart_file import shortened

FEW = 8
"""So many distinct values have room for a tick each."""
_NEAR = 0.07
"""Ticks nearer to each other than this share of the axis would overlap."""
_WIDE = 30.0  # a knob whose largest value is this many times its smallest lies by its logarithm


@dataclass(frozen=True)
class Scale:
    """How the values of a knob are laid out on an axis."""

    kind: Literal["linear", "log", "named"]
    values: Sequence[Any]
    """The distinct ones, in order."""

    @staticmethod
    def of(values: Collection[Any], *, logarithmic: bool) -> "Scale":
        """Lay out the values of all configurations.

        Numbers lie by size, logarithmically where asked or wide apart. A few that come again and again are from a list:
        they have a place each, as names have, in their order.
        """
        distinct = list(dict.fromkeys(hashable(value) for value in values))
        listed = len(distinct) <= FEW and len(values) >= 2 * len(distinct)
        if listed or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct):
            return Scale("named", sorted(distinct, key=_name_order))
        numbers = sorted(distinct)
        log = numbers[0] > 0 and (logarithmic or numbers[-1] >= _WIDE * numbers[0])
        return Scale("log" if log else "linear", numbers)

    def position(self, value: Any) -> float:
        """Return where a value lies, from 0 to 1."""
        if self.kind == "named":
            return (self.values.index(hashable(value)) + 0.5) / len(self.values)
        low, high, at = (math.log(x) if self.kind == "log" else x for x in (self.values[0], self.values[-1], value))
        return 0.5 if high == low else (at - low) / (high - low)

    @property
    def ticks(self) -> Mapping[float, str]:
        """Names by position: of all values where they are few and apart, else round numbers between the ends."""
        shown = self.values
        places = [self.position(value) for value in shown]
        overlap = any(right - left < _NEAR for left, right in pairwise(places))
        if self.kind != "named" and (len(shown) > FEW or overlap):
            low, high = shown[0], shown[-1]
            if self.kind == "linear":
                found = MaxNLocator(4).tick_values(low, high)
            else:
                found = LogLocator(subs=_subs(high / low)).tick_values(low, high)
            shown = [value for value in found if low <= value <= high]
        return {self.position(value): shortened(_text(value), room=18) for value in shown}


def _subs(span: float) -> tuple[float, ...]:
    """Return the round numbers of a decade that are named on a logarithmic axis of so many times its beginning."""
    if span < 10:
        return (1.0, 2.0, 3.0, 5.0, 7.0)
    return (1.0, 3.0) if span < 1e3 else (1.0,)


def hashable(value: Any) -> Any:
    """Return a list as a tuple, and anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


def _name_order(value: Any) -> tuple[int, float, str]:
    """Sort nothing first, then numbers by size, then names."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, float(value), ""
    return 2, 0.0, str(value)


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value)
