"""Charts of a sweep: each knob against the metric, parallel coordinates, FLOPs against the metric."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from tats_ray.tracking.chart_file import COLOURS, GREY, head, plain, save, shortened
from tats_ray.tracking.charts import Points
from tats_ray.tracking.knob_scale import FEW, Scale, hashable

_COLUMNS = 3
_FAR = 4.0  # times the distance between the quartiles; what is beyond lies at the edge
_GOLDEN = 0.618  # its multiples spread dots evenly in any order
_LEGEND = 5
_BEST = COLOURS[3]
_OTHERS = COLOURS[0]
_PALE = "0.82"


@dataclass(frozen=True)
class Dot:
    """A value of the metric, with the knobs that it was reached with."""

    knobs: Mapping[str, Any]
    value: float
    best: bool = False
    """Whether it is of the best configuration, which is drawn in a colour of its own."""


def knobs_chart(
    dots: Sequence[Dot], path: Path, *, knobs: Sequence[str], metric: str, logarithmic: Collection[str] = ()
) -> None:
    """Draw each knob against the metric, a panel a knob, a dot a seed; a dash is the mean of all dots at a value.

    Dots of one value are set side by side. Those far beyond the others lie as triangles at the edge.

    Args:
        dots: One for each seed of each configuration.
        path: Where to write; its folder is made when it is missing.
        knobs: Names of those to draw.
        metric: Its name.
        logarithmic: Knobs that are laid out logarithmically.

    Raises:
        ValueError: No dots, or no knobs.
    """
    if not dots or not knobs:
        raise ValueError(f"there must be dots and knobs to draw, got {len(dots)} and {len(knobs)}")
    columns = min(_COLUMNS, len(knobs))
    rows = math.ceil(len(knobs) / columns)
    figure = Figure(figsize=(max(5.0, 4.0 * columns), 0.7 + 3.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    limits = _limits([dot.value for dot in dots])
    for number, axes in enumerate(panels.flat):
        if number >= len(knobs):
            axes.set_axis_off()
            continue
        knob = knobs[number]
        held = [dot for dot in dots if knob in dot.knobs]
        configurations = {repr(dot.knobs): dot.knobs[knob] for dot in held}  # each once, whatever its seeds
        scale = Scale.of(configurations.values(), logarithmic=knob in logarithmic)
        _draw_panel(axes, held, knob=knob, scale=scale, limits=limits)
        if number % columns == 0:
            axes.set_ylabel(shortened(metric, room=34))
    head(figure, "Each knob against the metric; a dot is a seed, red the best configuration")
    save(figure, path)


def coordinates_chart(
    dots: Sequence[Dot],
    path: Path,
    *,
    knobs: Sequence[str],
    metric: str,
    mode: Literal["min", "max"],
    logarithmic: Collection[str] = (),
) -> None:
    """Draw parallel coordinates: a line a configuration through its knobs to its metric, the best on top.

    Args:
        dots: One for each configuration.
        path: Where to write; its folder is made when it is missing.
        knobs: Names of the axes, from the left.
        metric: Name of the last axis.
        mode: Whether small or large values are good.
        logarithmic: Knobs that are laid out logarithmically.

    Raises:
        ValueError: No dots, or no knobs.
    """
    if not dots or not knobs:
        raise ValueError(f"there must be dots and knobs to draw, got {len(dots)} and {len(knobs)}")
    scales = {
        knob: Scale.of([dot.knobs[knob] for dot in dots if knob in dot.knobs], logarithmic=knob in logarithmic)
        for knob in knobs
    }
    low, high = _limits([dot.value for dot in dots])
    worst, best = (high, low) if mode == "min" else (low, high)
    figure = Figure(figsize=(max(6.0, 1.5 * (len(knobs) + 1)), 4.6), layout="constrained")
    axes = figure.subplots()
    shades = matplotlib.colormaps["viridis_r"]
    for dot in sorted(dots, key=lambda dot: (dot.best, -dot.value if mode == "min" else dot.value)):
        merit = min(1.0, max(0.0, (dot.value - worst) / (best - worst)))
        heights = [scales[knob].position(dot.knobs[knob]) if knob in dot.knobs else math.nan for knob in knobs]
        style = {"color": _BEST, "linewidth": 2.5} if dot.best else {"color": shades(merit), "linewidth": 1.0}
        axes.plot(range(len(knobs) + 1), [*heights, merit], **style)
    for number, knob in enumerate(knobs):
        _draw_axis(axes, number, scales[knob].ticks)
    _draw_axis(axes, len(knobs), {share: f"{worst + share * (best - worst):.4g}" for share in (0, 0.25, 0.5, 0.75, 1)})
    names = [_last(knob) for knob in (*knobs, metric)]
    axes.set_xticks(range(len(names)), labels=[shortened(name.replace("_", " "), room=22) for name in names])
    axes.tick_params(axis="x", length=0)
    axes.set(yticks=[], xlim=(-0.1, len(knobs) + 0.45), ylim=(-0.05, 1.05))
    axes.spines[:].set_visible(False)
    head(figure, "A line a configuration, mean of its seeds; the metric's axis has the best on top, red is the best")
    save(figure, path)


def cost_chart(curves: Sequence[tuple[str, Points]], path: Path, *, metric: str) -> None:
    """Draw the metric over counted training FLOPs, a line a trial.

    Args:
        curves: A name of the configuration and the points of each trial, configurations best first. The first five are
            named.
        path: Where to write; its folder is made when it is missing.
        metric: Its name.

    Raises:
        ValueError: No curves.
    """
    if not curves:
        raise ValueError("there must be curves to draw, got none")
    names = list(dict.fromkeys(name for name, _ in curves))
    palette = (_BEST, *(colour for colour in COLOURS if colour != _BEST))
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    labelled: set[str] = set()
    for name, (flops, values) in reversed(curves):
        place = names.index(name)
        marker = "o" if len(flops) == 1 else None  # a line of one point is nothing
        if place < _LEGEND:
            colour, label = palette[place], None if name in labelled else shortened(name, room=58)
            labelled.add(name)
            style = {"color": colour, "label": label, "linewidth": 1.6, "zorder": 3}
        else:
            style = {"color": _PALE, "linewidth": 1.0}
        axes.plot(np.asarray(flops) / 1e12, values, marker=marker, **style)
    if len(names) > _LEGEND:
        axes.plot([], [], color=_PALE, label=f"{len(names) - _LEGEND} others")
    low, high = _limits([value for _, (_, values) in curves for value in values])
    axes.set(xlabel="training TFLOPs of a trial, counted", ylabel=plain(metric), ylim=(low, high))
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    first = dict(zip(labels, handles, strict=True))
    shown = [name for name in (shortened(name, room=58) for name in names) if name in first]
    shown += [label for label in labels if label not in shown]
    figure.legend([first[label] for label in shown], shown, loc="outside lower left", fontsize=8, ncols=2)
    head(figure, "What it cost: the metric over the FLOPs of training")
    save(figure, path)


def _draw_panel(axes: Axes, dots: Sequence[Dot], *, knob: str, scale: Scale, limits: tuple[float, float]) -> None:
    low, high = limits
    few = len(scale.values) <= FEW
    groups: dict[Any, list[Dot]] = {}
    for dot in dots:
        groups.setdefault(hashable(dot.knobs[knob]), []).append(dot)
    room = 0.5 / len(scale.values) if few else 0.0
    for value, group in groups.items():
        middle = scale.position(value)
        for number, dot in enumerate(group):
            beside = room * ((number + 1) * _GOLDEN % 1 - 0.5) if len(group) > 1 else 0.0
            beyond = not low <= dot.value <= high
            marker = "o" if not beyond else "^" if dot.value > high else "v"
            colour = _BEST if dot.best else _OTHERS
            y = min(max(dot.value, low), high)
            axes.plot(
                middle + beside, y, marker=marker, color=colour, markersize=4.5, alpha=0.8, markeredgewidth=0,
                zorder=3 + dot.best, clip_on=not beyond, in_layout=False,
            )  # fmt: skip
        if few and len(group) > 1:
            mean = min(max(float(np.mean([dot.value for dot in group])), low), high)
            axes.plot([middle - 0.6 * room, middle + 0.6 * room], [mean, mean], color=GREY, linewidth=1.5, zorder=2)
    crowded = few and len(scale.values) > 4
    axes.xaxis.set_major_locator(FixedLocator(list(scale.ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(scale.ticks.values(), rotation=30 if crowded else 0, ha="right" if crowded else "center")
    axes.tick_params(labelsize=8)
    formatter = ScalarFormatter(useOffset=False)
    axes.yaxis.set_major_formatter(formatter)
    margin = 0.06 if scale.kind != "named" else 0.0
    axes.set(xlim=(-margin - room, 1 + margin + room), ylim=(low, high))
    axes.set_xlabel(shortened(knob, room=40) + (", log" if scale.kind == "log" else ""), fontsize=9)
    axes.grid(axis="y", alpha=0.3)


def _draw_axis(axes: Axes, number: int, ticks: Mapping[float, str]) -> None:
    axes.axvline(number, ymin=0.045, ymax=0.955, color="0.2", linewidth=1, zorder=4)
    for height, name in ticks.items():
        axes.text(
            number + 0.03, height, name, fontsize=8, va="center", zorder=5,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the range to draw, without what lies far beyond most values."""
    finite = np.asarray([value for value in values if math.isfinite(value)], dtype=np.float64)
    if not len(finite):
        return 0.0, 1.0
    first, third = np.quantile(finite, (0.25, 0.75))
    reach = _FAR * (third - first) or np.inf
    near = finite[(finite >= first - reach) & (finite <= third + reach)]
    low, high = float(near.min()), float(near.max())
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _last(path: str) -> str:
    """Return the last part of a dotted path or a metric's name; of a kind, whose."""
    return path.removesuffix(".kind").replace("/", ".").split(".")[-1]
