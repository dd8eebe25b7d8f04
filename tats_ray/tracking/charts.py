"""Charts of numbers: confusion, spectra, curves and intervals, as PNG below 300 kB."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from tats_ray.tracking.chart_file import COLOURS, GREY, head, plain, save, shortened

Points = tuple[Sequence[float], Sequence[float]]  # x, y
Estimate = tuple[float, float, float]  # mean, low, high

_COUNTED_CLASSES = 25  # up to so many, each cell has room for its count
_NAMED_CLASSES = 60  # up to so many, each row has room for its name
_LISTED_PAIRS = 20
_SHADES = 32  # few enough for a full matrix of 400 classes to stay small
_STYLES = ("-", "--", ":", "-.")


def confusion_chart(confusion: ArrayLike, class_names: Sequence[str], path: Path, title: str) -> None:
    """Draw which class is taken for which, each row as shares of its class.

    Up to 25 classes show the counts too, up to 60 their names. Above, the most frequent confusions are listed beside
    the matrix, since no name would be legible at its row.

    Args:
        confusion: Counts ``[classes, classes]``, true class by row.
        class_names: Of every class, in order.
        path: Where to write; its folder is made when it is missing.
        title: A line above.

    Raises:
        ValueError: The matrix is not square, has no classes or negative counts, or the names do not fit it.
    """
    counts = np.asarray(confusion)
    _check_confusion(counts, class_names)
    num_classes = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    listed = num_classes > _NAMED_CLASSES
    side = 8.5 if listed else min(12.0, 4.5 + 0.3 * num_classes)
    figure = Figure(figsize=(side + (5.0 if listed else 1.5), side), layout="constrained")
    axes, *beside = figure.subplots(1, 1 + listed, squeeze=False, width_ratios=(side, 4.5)[: 1 + listed])[0]
    shades = matplotlib.colormaps["Blues"].resampled(_SHADES)
    # The root of the share: a twentieth of a class's videos gone astray is then a visible cell.
    image = axes.imshow(np.sqrt(shares), cmap=shades, vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, label="share of the true class's videos")
    bar.set_ticks([math.sqrt(share) for share in (0, 0.05, 0.2, 0.5, 1)], labels=["0", ".05", ".2", ".5", "1"])
    axes.set(xlabel="best class", ylabel="true class")
    head(figure, title)
    if listed:
        _list_confusions(beside[0], counts, class_names)
    else:
        names = [shortened(name) for name in class_names]
        size = 9 if num_classes <= _COUNTED_CLASSES else 7
        axes.set_xticks(range(num_classes), labels=names, rotation=90, fontsize=size)
        axes.set_yticks(range(num_classes), labels=names, fontsize=size)
    if num_classes <= _COUNTED_CLASSES:
        _write_counts(axes, counts, shares)
    save(figure, path)


def spectrum_chart(spectra: Mapping[str, ArrayLike], path: Path, title: str = "Spectrum of the features") -> None:
    """Draw singular values, largest first, on a logarithmic axis; a collapsed encoder falls off early.

    Args:
        spectra: Values by name, such as those of :func:`tats_ray.evaluation.health.spectrum`.
        path: Where to write; its folder is made when it is missing.
        title: A line above.

    Raises:
        ValueError: No spectra, or one that has no value above 0.
    """
    curves: dict[str, Points] = {}
    for name, values in spectra.items():
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 1 or not (array > 0).any():
            raise ValueError(f"spectra[{name!r}] must be a row of values with one above 0, got shape {array.shape}")
        curves[name] = (np.arange(1, len(array) + 1).tolist(), np.where(array > 0, array, np.nan).tolist())
    _draw_curves(curves, path, xlabel="singular value", ylabel="share of the sum", title=title, yscale="log")


def curves_chart(curves: Mapping[str, Points], path: Path, xlabel: str, ylabel: str, title: str) -> None:
    """Draw one line a series; values that are not finite leave gaps.

    Args:
        curves: x and y by the series' name, equally many of each.
        path: Where to write; its folder is made when it is missing.
        xlabel: Below, with the unit.
        ylabel: At the left, with the unit.
        title: A line above.

    Raises:
        ValueError: No series, or one whose x and y differ in number.
    """
    _draw_curves(curves, path, xlabel=xlabel, ylabel=ylabel, title=title, yscale="linear")


def interval_chart(
    rows: Mapping[str, Estimate], path: Path, xlabel: str = "difference", title: str = "Paired differences"
) -> None:
    """Draw a forest plot: a row for each name with its mean and interval, and a line at 0.

    An interval that crosses 0 is grey. An infinite end is drawn as an arrow to the edge.

    Args:
        rows: Mean, low and high by name, from top to bottom.
        path: Where to write; its folder is made when it is missing.
        xlabel: Below, with the unit.
        title: A line above.

    Raises:
        ValueError: No rows, a mean that is not finite, or one outside its interval.
    """
    if not rows:
        raise ValueError("rows must hold at least one interval, got none")
    for name, (mean, low, high) in rows.items():
        if not (math.isfinite(mean) and low <= mean <= high):
            raise ValueError(f"rows[{name!r}] must be a finite mean within its interval, got {(mean, low, high)}")
    figure = Figure(figsize=(8, 1.4 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    reach = 1.1 * max(abs(x) for row in rows.values() for x in (*row, 1e-9) if math.isfinite(x))
    for y, (mean, low, high) in enumerate(rows.values()):
        colour = GREY if low <= 0 <= high else COLOURS[0] if low > 0 else COLOURS[3]
        axes.plot([max(low, -reach), min(high, reach)], [y, y], color=colour, linewidth=2)
        ends = ((low, "|" if math.isfinite(low) else "<"), (high, "|" if math.isfinite(high) else ">"))
        for end, marker in ends:
            axes.plot(min(max(end, -reach), reach), y, marker=marker, color=colour, markersize=8, clip_on=False)
        axes.plot(mean, y, marker="o", color=colour)
    axes.axvline(0, color="0.2", linewidth=1)
    axes.set(xlabel=plain(xlabel), xlim=(-reach, reach))
    head(figure, title)
    axes.set_yticks(range(len(rows)), labels=[shortened(name, room=60) for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    save(figure, path)


def _draw_curves(
    curves: Mapping[str, Points], path: Path, *, xlabel: str, ylabel: str, title: str, yscale: str
) -> None:
    if not curves:
        raise ValueError("curves must hold at least one series, got none")
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, (x, y)) in enumerate(curves.items()):
        if len(x) != len(y):
            raise ValueError(f"curves[{name!r}] must have as many x as y, got {len(x)} and {len(y)}")
        style, colour = _STYLES[number // len(COLOURS) % len(_STYLES)], COLOURS[number % len(COLOURS)]
        marker = "o" if len(x) == 1 else None  # a line of one point is nothing
        axes.plot(x, y, label=shortened(name, room=40), color=colour, linestyle=style, marker=marker, linewidth=1.5)
    axes.set(xlabel=plain(xlabel), ylabel=plain(ylabel), yscale=yscale)
    head(figure, title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, ncols=-(-len(curves) // 25))
    save(figure, path)


def _write_counts(axes: Axes, counts: NDArray, shares: NDArray) -> None:
    for row, column in np.argwhere(counts > 0):
        colour = "white" if shares[row, column] > 0.3 else "black"
        text = f"{counts[row, column]:.0f}"
        # Out of the layout, which would measure hundreds of texts that lie within the axes anyway.
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour, in_layout=False)


def _list_confusions(axes: Axes, counts: NDArray, class_names: Sequence[str]) -> None:
    """Name the cells off the diagonal that hold the most videos."""
    astray = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    # Of equal counts, the larger share of its class first.
    order = np.lexsort((-(astray / np.maximum(counts.sum(1, keepdims=True), 1)).ravel(), -astray.ravel()))
    pairs = [divmod(int(cell), len(counts)) for cell in order[:_LISTED_PAIRS] if astray.flat[cell] > 0]
    names = [f"{shortened(name, room=34)} ({number})" for number, name in enumerate(class_names)]
    lines = [f"{astray[true, best]:4.0f}  {names[true]}\n          as {names[best]}" for true, best in pairs]
    axes.set_axis_off()
    axes.set_title("Most frequent confusions", fontsize=10, loc="left")
    axes.text(0, 1, "\n".join(lines) or "none", va="top", fontsize=8.5, transform=axes.transAxes, linespacing=1.15)


def _check_confusion(counts: NDArray, class_names: Sequence[str]) -> None:
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size or not (counts >= 0).all():
        raise ValueError(f"confusion must be counts [classes, classes], at least 0, got shape {list(counts.shape)}")
    if len(class_names) != len(counts):
        raise ValueError(f"class_names must be {len(counts)}, one for each class, got {len(class_names)}")
