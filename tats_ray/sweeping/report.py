"""The page of a sweep: what may be said first, then the ranking, charts, the best run, and every trial."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader

from tats_ray.config.files import to_yaml
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.sweeping.question import Question
from tats_ray.sweeping.ranking import Configuration, LeftOut, Ranking, rank
from tats_ray.sweeping.tables import write_summary, write_trials
from tats_ray.sweeping.trials import Point, Trial
from tats_ray.sweeping.verdict import described, sentences, shown, with_spread
from tats_ray.tracking.base import RunHandle
from tats_ray.tracking.store import run_page, without_credentials
from tats_ray.tracking.sweep_charts import Dot, coordinates_chart, cost_chart, knobs_chart

T = TypeVar("T")

_NAMED_KNOBS = 3  # so many can stand in a legend


@dataclass(frozen=True)
class Report:
    """Where everything is, and what it says first."""

    ranking: Ranking
    sentences: Sequence[str]
    html: Path
    markdown: Path
    trials: Path
    summary: Path
    best: Path | None
    """The best configuration as a complete run; None where nothing is ranked."""
    files: Sequence[Path]


def write_report(
    question: Question,
    trials: Iterable[Trial],
    folder: Path,
    *,
    facts: Mapping[str, str],
    parent: RunHandle | None = None,
) -> Report:
    """Write ``sweep.html``, ``sweep.md``, ``trials.csv``, ``summary.csv``, ``best.yaml`` and the charts.

    Args:
        question: What was asked.
        trials: All of them, also those that were never started.
        folder: Where to write.
        facts: Command, commit, hardware and the like, by name.
        parent: Record of the sweep, beside which the trials' lie; links lead there where a server keeps it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trials = [replace(one, reason=None if one.reason is None else without_credentials(one.reason)) for one in trials]
    ranking = rank(
        trials,
        metric=question.metric,
        mode=question.mode,
        at=question.at,
        kind=question.base.masking.visible.kind,
    )
    said = sentences(ranking)
    tables = folder / "trials.csv", folder / "summary.csv"
    write_trials(question, trials, ranking, tables[0])
    write_summary(question, ranking, tables[1])
    best = folder / "best.yaml" if ranking.best is not None else None
    if best is not None and ranking.best is not None:
        best.write_text(_best_yaml(question, ranking.best))
    charts = _charts(question, ranking, folder)
    rows = [_row(question, one, parent) for one in ranking.configurations]
    content = {
        "question": question,
        "said": said,
        "rule": ranking.rule,
        "headings": [_heading(knob, question.knobs) for knob in question.knobs],
        "metric": _heading(question.metric.replace("/", "."), ()),
        "shown": [_heading(name.replace("/", "."), ()) for name in question.shown],
        "rows": rows,
        "several_steps": len({row["step"] for row in rows}) > 1,
        "left_out": _left_out_rows(ranking, parent),
        "charts": [(chart.name, title) for chart, title in charts],
        "best": None if best is None else best.read_text(),
        "changed": "" if ranking.best is None else described(ranking.best.knobs),
        "facts": {name: without_credentials(text) for name, text in facts.items()},
    }
    pages = Environment(
        loader=PackageLoader("tats_ray.sweeping"),
        autoescape=lambda name: bool(name and "html" in name),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html, markdown = folder / "sweep.html", folder / "sweep.md"
    for page in (html, markdown):
        page.write_text(pages.get_template(f"{page.name}.jinja").render(content))
    files = [html, markdown, *tables, *([] if best is None else [best]), *(chart for chart, _ in charts)]
    return Report(ranking, said, html, markdown, *tables, best, files)


def best_run(question: Question, best: Configuration) -> TrainRun:
    """Return the first trial of a configuration as a run of its own: same knobs, same seed, same start."""
    seed = next(iter(best.scores))
    start = question.starts.get(seed, question.base.init)
    own = [("seed", seed), ("init", start), ("name", f"{question.name}-best")]
    return change(question.base, [*best.knobs.items(), *own])


def _best_yaml(question: Question, best: Configuration) -> str:
    run = best_run(question, best)
    lines = [
        f"Best configuration of {question.name} by {question.metric}: {with_spread(best)}",
        f"with {described(best.knobs)}.",
        "Run it with: python pipelines/pretrain.py --config best.yaml",
    ]
    if run.init is not None:
        lines.append("It starts from the checkpoint that the sweep's trials started from; init=null starts anew.")
    return "".join(f"# {line}\n" for line in lines) + without_credentials(to_yaml(run))


def _charts(question: Question, ranking: Ranking, folder: Path) -> list[tuple[Path, str]]:
    """Draw knobs that had several values; of configurations that were stopped, their curves alone."""
    whole = [one for one in ranking.configurations if one.stopped_at is None]
    varied = [
        knob
        for knob in question.knobs
        if len({repr(one.knobs[knob]) for one in ranking.configurations if knob in one.knobs}) > 1
    ]
    options = {"knobs": varied, "metric": question.metric, "logarithmic": question.logarithmic}
    charts = []
    if whole and varied:
        charts.append((folder / "knobs.png", "Each knob against the metric"))
        seeds = [Dot(one.knobs, value, best=one is whole[0]) for one in whole for value in one.values.values()]
        knobs_chart(seeds, charts[-1][0], **options)
    if len(whole) > 1 and varied:
        charts.append((folder / "coordinates.png", "Parallel coordinates"))
        means = [Dot(one.knobs, one.mean, best=one is whole[0]) for one in whole]
        coordinates_chart(means, charts[-1][0], mode=question.mode, **options)
    curves = [
        (_legend(place, one, varied), _curve(trial.curve))
        for place, one in enumerate(ranking.configurations, start=1)
        for trial, _ in one.scores.values()
    ]
    if curves:
        charts.append((folder / "cost.png", "What it cost"))
        cost_chart(curves, charts[-1][0], metric=question.metric)
    return charts


def _legend(place: int, one: Configuration, varied: Sequence[str]) -> str:
    """Return a name for a line: the knobs where they are few, else its place in the table."""
    knobs = described({knob: one.knobs[knob] for knob in varied if knob in one.knobs})
    return f"{place}:  {with_spread(one)}" + (f"  {knobs}" if knobs and len(varied) <= _NAMED_KNOBS else "")


def _curve(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.flops for point in points], [point.value for point in points]


def _row(question: Question, one: Configuration, parent: RunHandle | None) -> dict[str, Any]:
    points = [point for _, point in one.scores.values()]
    notes = [f"stopped at step {one.stopped_at:,}"] if one.stopped_at is not None else []
    notes += [f"{_seeds(group)} {how}" for how, group in _grouped(one.left_out, lambda left: left.how)]
    return {
        "rank": one.rank,
        "knobs": [shown(one.knobs[knob]) if knob in one.knobs else "-" for knob in question.knobs],
        "mean": f"{one.mean:.4g}",
        "spread": "" if one.spread is None else f" ± {one.spread:.2g}",
        "seeds": [
            {"seed": seed, "value": f"{point.value:.4g}", "link": _link(trial, parent), "trial": trial.name}
            for seed, (trial, point) in one.scores.items()
        ],
        "shown": [_mean_of(one, name) for name in question.shown],
        "step": _range([f"{point.step:,}" for point in points]),
        "tflops": _range([f"{point.flops / 1e12:,.3g}" for point in points]),
        "note": "; ".join(notes),
    }


def _left_out_rows(ranking: Ranking, parent: RunHandle | None) -> list[dict[str, Any]]:
    """Return a row for each configuration and reason; seeds that share both share a row."""
    groups = _grouped(ranking.left_out, lambda left: (described(left.trial.knobs), left.how, left.reason))
    return [
        {
            "trials": [(left.trial.name, _link(left.trial, parent)) for left in group],
            "how": how,
            "seeds": ", ".join(str(left.trial.seed) for left in group),
            "knobs": knobs,
            "reason": reason,
        }
        for (knobs, how, reason), group in groups
    ]


def _grouped(left_out: Iterable[LeftOut], key: Callable[[LeftOut], T]) -> Sequence[tuple[T, Sequence[LeftOut]]]:
    groups: dict[T, list[LeftOut]] = {}
    for left in left_out:
        groups.setdefault(key(left), []).append(left)
    return list(groups.items())


def _seeds(left_out: Sequence[LeftOut]) -> str:
    return f"seed{'s' if len(left_out) > 1 else ''} " + ", ".join(str(left.trial.seed) for left in left_out)


def _mean_of(one: Configuration, metric: str) -> str:
    """Return the mean of a further metric over the seeds that have it, where their trials ended."""
    values = [trial.metrics[metric] for trial, _ in one.scores.values() if metric in trial.metrics]
    return shown(fmean(values)) if values else "-"


def _range(texts: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(texts))
    return distinct[0] if len(distinct) == 1 else f"{distinct[0]} to {distinct[-1]}"


def _link(trial: Trial, parent: RunHandle | None) -> str:
    """Return where a reader finds a trial: its page on a server, or its folder."""
    page = None
    if parent is not None and trial.run_id is not None:
        page = run_page(replace(parent, run_id=trial.run_id))
    return page or trial.folder or ""


def _heading(path: str, knobs: Sequence[str]) -> str:
    """Return the last part of a path, or as much of it as tells it from the others."""
    parts = path.removesuffix(".kind").split(".")
    tails = [".".join(parts[-number:]) for number in range(1, len(parts) + 1)]
    others = [other.removesuffix(".kind") for other in knobs if other != path]
    return next((tail for tail in tails if not any(other.endswith(f".{tail}") for other in others)), tails[-1])
