"""The page of a comparison: what may be said first, then the intervals, then every number with the run it is from."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader

from tats_ray.comparison.judging import (
    MASK_ERROR,
    Contrast,
    Scored,
    Scores,
    cells,
    contrasts,
    metrics_of,
    sentences,
    why_unranked,
)
from tats_ray.comparison.plan import Budget, Plan, cost_rows
from tats_ray.tracking.charts import Points, curves_chart, interval_chart

BUDGETS: Mapping[Budget, str] = {"clips": "equal clips", "flops": "equal FLOPs"}


@dataclass(frozen=True)
class Report:
    """Where the pages are, and what they say first."""

    html: Path
    markdown: Path
    table: Path
    sentences: Sequence[str]
    files: Sequence[Path]


def write_report(
    plan: Plan,
    scores: Scores,
    folder: Path,
    *,
    facts: Mapping[str, str],
    curves: Mapping[str, Mapping[str, Points]] | None = None,
) -> Report:
    """Write ``report.html``, ``report.md``, ``results.csv`` and their charts.

    Args:
        plan: What was to be run.
        scores: What was found, by name of the run.
        folder: Where to write.
        facts: Command, commit, hardware and the like, by name.
        curves: Metric over steps by metric, then by the line's name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = contrasts(plan, scores)
    said = sentences(plan.comparison, found)
    charts = [*_interval_charts(plan, found, folder), *_curve_charts(curves or {}, folder)]
    table = folder / "results.csv"
    _write_table(plan, scores, table)
    content = {
        "name": plan.comparison.name,
        "said": said,
        "facts": facts,
        "costs": cost_rows(plan),
        "tables": _tables(plan, scores),
        "contrasts": [_contrast_row(one) for one in found],
        "charts": [chart.name for chart in charts],
        "runs": _run_rows(plan, scores),
        "runs_columns": [*metrics_of(scores), *_diagnostics(scores)],
        "seeds": list(plan.comparison.seeds),
    }
    pages = Environment(
        loader=PackageLoader("tats_ray.comparison"),
        autoescape=lambda name: bool(name and "html" in name),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    written = {}
    for name in ("report.html", "report.md"):
        written[name] = folder / name
        written[name].write_text(pages.get_template(f"{name}.jinja").render(content))
    files = [*written.values(), table, *charts]
    return Report(written["report.html"], written["report.md"], table, said, files)


def _interval_charts(plan: Plan, found: Sequence[Contrast], folder: Path) -> list[Path]:
    """Draw the differences from each reference at each ratio and budget."""
    charts = []
    for budget, title in BUDGETS.items():
        for ratio in plan.comparison.ratios:
            for reference in plan.comparison.references:
                rows = {
                    f"{one.arm}, {one.metric.removesuffix('/top1')}": (
                        100 * one.interval.mean,
                        100 * one.interval.low,
                        100 * one.interval.high,
                    )
                    for one in found
                    if (one.budget, one.ratio, one.reference) == (budget, ratio, reference)
                }
                if rows:
                    charts.append(folder / f"intervals_{budget}_r{100 * ratio:g}_{reference}.png")
                    heading = f"Against {reference} at ratio {ratio:g}, {title}; 95 % intervals over seeds"
                    interval_chart(rows, charts[-1], xlabel="difference of top-1, percentage points", title=heading)
    return charts


def _curve_charts(curves: Mapping[str, Mapping[str, Points]], folder: Path) -> list[Path]:
    charts = []
    for metric, lines in curves.items():
        if lines:
            charts.append(folder / f"curves_{metric.replace('/', '_')}.png")
            curves_chart(lines, charts[-1], xlabel="steps after the warm-up", ylabel=metric, title=metric)
    return charts


def _tables(plan: Plan, scores: Scores) -> list[dict]:
    """Return, for each budget and ratio, the mean and spread of every arm by every metric, with each seed's number."""
    metrics = metrics_of(scores)
    tables = []
    for budget, title in BUDGETS.items():
        for ratio in plan.comparison.ratios:
            columns = [cells(plan, scores, ratio=ratio, budget=budget, metric=metric) for metric in metrics]
            links = {
                (entry.arm, entry.seed): scored.link
                for entry in plan.entries
                if (entry.ratio, entry.budget) == (ratio, budget)
                and isinstance(scored := scores.get(entry.run), Scored)
            }
            rows = []
            for arm in plan.comparison.arms:
                row = []
                for column in columns:
                    cell = column.get(arm.name)
                    spread = None if cell is None else cell.spread
                    row.append(
                        {
                            "mean": "-" if cell is None else f"{100 * cell.mean:.1f}",
                            "spread": "" if spread is None else f" ± {100 * spread:.1f}",
                            "seeds": []
                            if cell is None
                            else [(f"{100 * value:.1f}", links[arm.name, seed]) for seed, value in cell.values.items()],
                        }
                    )
                rows.append({"arm": arm.name, "cells": row})
            heading = f"Ratio {ratio:g}, {title}"
            tables.append({"title": heading, "columns": [_short(metric) for metric in metrics], "rows": rows})
    return tables


def _contrast_row(one: Contrast) -> dict[str, str]:
    interval = one.interval
    return {
        "arm": one.arm,
        "reference": one.reference,
        "ratio": f"{one.ratio:g}",
        "budget": BUDGETS[one.budget],
        "metric": _short(one.metric),
        "mean": f"{100 * interval.mean:+.1f}",
        "low": f"{100 * interval.low:+.1f}",
        "high": f"{100 * interval.high:+.1f}",
        "n": str(interval.n),
        "verdict": one.verdict,
    }


def _run_rows(plan: Plan, scores: Scores) -> list[dict]:
    """Return every run that is judged, with its numbers, or why it has none."""
    columns = [*metrics_of(scores), *_diagnostics(scores)]
    rows = []
    for entry in plan.entries:
        scored = scores.get(entry.run)
        found = scored if isinstance(scored, Scored) else None
        rows.append(
            {
                "run": entry.run,
                "link": found.link if found else "",
                "arm": entry.arm,
                "ratio": f"{entry.ratio:g}",
                "seed": str(entry.seed),
                "budget": BUDGETS[entry.budget],
                "steps": str(plan.runs[entry.run].run.training.steps),
                "tflops": f"{found.flops / 1e12:,.3g}" if found else "-",
                "lift": f"{found.summary['sampler/motion_lift']:.2f}"
                if found and "sampler/motion_lift" in found.summary
                else "-",
                "values": [_value(found, column) for column in columns],
                "note": why_unranked(plan, entry, scores) or "",
            }
        )
    return rows


def _value(scored: Scored | None, column: str) -> str:
    if scored is None or column not in scored.metrics:
        return "-"
    value = scored.metrics[column]
    return f"{value:.3f}" if column.startswith(MASK_ERROR) else f"{100 * value:.1f}"


def _diagnostics(scores: Scores) -> list[str]:
    found: dict[str, None] = {}
    for scored in scores.values():
        if isinstance(scored, Scored):
            found.update(dict.fromkeys(name for name in scored.metrics if name.startswith(MASK_ERROR)))
    return list(found)


def _write_table(plan: Plan, scores: Scores, path: Path) -> None:
    """Write a row for each judged run, numbers in full."""
    columns = sorted({name for one in scores.values() if isinstance(one, Scored) for name in one.metrics})
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sampler", "ratio", "seed", "budget", "run", "folder", "steps", "flops", *columns, "note"])
        for entry in plan.entries:
            scored = scores.get(entry.run)
            found = scored if isinstance(scored, Scored) else None
            steps = plan.runs[entry.run].run.training.steps
            numbers = [found.metrics.get(column, "") if found else "" for column in columns]
            whose = [entry.arm, entry.ratio, entry.seed, entry.budget, entry.run]
            of_run = [found.folder if found else "", steps, found.flops if found else ""]
            writer.writerow([*whose, *of_run, *numbers, why_unranked(plan, entry, scores) or ""])


def _short(metric: str) -> str:
    return metric.removesuffix("/top1")
