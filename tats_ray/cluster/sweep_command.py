"""What every sweep's script does: resolve the base run, make videos if none are given, sweep, show the table."""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tats_ray.cluster.index import index_videos
from tats_ray.cluster.search_space import SearchSpace
from tats_ray.cluster.tune import SweepResult, sweep
from tats_ray.config.command_line import ended, make_parser, parse, resolve
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.copies import where
from tats_ray.data.synthetic import SyntheticConfig, make_videos
from tats_ray.driver import RUN_ERRORS, RunFailedError, results_root
from tats_ray.recipes import RECIPES, recipe
from tats_ray.sweeping.journal import Options
from tats_ray.sweeping.ranking import Ranking
from tats_ray.sweeping.verdict import described, shown, with_spread
from tats_ray.tracking.store import ui_command

LOG_COLUMNS = 160
"""Of tables that go to no terminal."""


def main(space: SearchSpace, *, description: str) -> int:
    """Run a sweep from the command line; return the exit status, 1 when a trial failed."""
    parsed = parse(_parser(space, description))

    def work() -> int:
        asked = judged(space, parsed)
        run = resolve(parsed, recipe)
        if run.data.manifest is None:
            run = change(run, [("data.manifest", str(synthetic_manifest(run)))])
        result = sweep(asked, run, options(asked, parsed, run), resume=parsed.resume)
        show(asked, result)
        return int(any(trial.status == "failed" for trial in result.trials))

    return ended(
        work,
        errors=(RunFailedError, *RUN_ERRORS, ValueError),
        again="the same command with --resume and the sweep's name goes on",
    )


def _parser(space: SearchSpace, description: str) -> argparse.ArgumentParser:
    parser = make_parser(description, RECIPES, default=space.recipe)
    group = parser.add_argument_group("the search")
    group.add_argument(
        "--search",
        choices=("grid", "random", "tpe"),
        help=f"all combinations, independent draws, or Optuna's TPE (default: {space.search})",
    )
    group.add_argument(
        "--scheduler",
        choices=("none", "asha", "pbt"),
        help=f"stop bad trials early (asha), or turn them into perturbed clones of good ones (pbt; default: "
        f"{space.scheduler})",
    )
    group.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help=f"configurations at most (default: {space.trials or 'all of the grid'})",
    )
    group.add_argument(
        "--seeds", type=int, nargs="+", metavar="SEED", help="train each configuration with each (default: the run's)"
    )
    group.add_argument(
        "--rank-at", choices=("steps", "flops"), default=None, help="compare at equal steps or equal FLOPs (steps)"
    )
    group.add_argument(
        "--metric",
        metavar="NAME",
        help=f"what ranks, as docs/metrics.md names it, with --mode (default: {space.metric})",
    )
    group.add_argument("--mode", choices=("min", "max"), help="whether a lower or a higher --metric is better")
    group.add_argument("--resume", metavar="NAME", help="go on with an interrupted sweep, as its options were")
    return parser


def judged(space: SearchSpace, parsed: argparse.Namespace) -> SearchSpace:
    """Return the space with the metric of the flags, if they name one.

    Raises:
        ValueError: One of ``--metric`` and ``--mode`` is given without the other.
    """
    if (parsed.metric is None) != (parsed.mode is None):
        raise ValueError(
            "--metric and --mode go together: what ranks, and whether a lower (min) or higher (max) is better"
        )
    return space if parsed.metric is None else replace(space, metric=parsed.metric, mode=parsed.mode)


def options(space: SearchSpace, parsed: argparse.Namespace, run: TrainRun) -> Options:
    """Return how to search: what the flags say, else what the space says.

    Raises:
        ConfigError: A sweep is resumed, and a flag says how to search.
    """
    given = [
        name for name in ("search", "scheduler", "trials", "seeds", "rank_at") if getattr(parsed, name) is not None
    ]
    if parsed.resume is not None and given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"--resume {parsed.resume} goes on with the sweep's own options; leave out {named}")
    return Options(
        search=parsed.search or space.search,
        scheduler=parsed.scheduler or space.scheduler,
        trials=space.trials if parsed.trials is None else parsed.trials,
        seeds=tuple(parsed.seeds or (run.seed,)),
        rank_at=parsed.rank_at or "steps",
    )


def synthetic_manifest(run: TrainRun) -> Path:
    """Return the manifest of self-made videos in the results folder, made when it is missing."""
    folder = results_root(run) / "videos"
    manifest = folder / "synthetic.parquet"
    if not manifest.exists():
        make_videos(folder / "synthetic", SyntheticConfig())
        index_videos(folder / "synthetic", out=manifest)
    return manifest


def show(space: SearchSpace, result: SweepResult) -> None:
    """Print the configurations, best first, then what does not count and why, and where everything is."""
    report = result.report
    console = Console()
    if not console.is_terminal:  # a file or a job's log, which would else be folded to 80 columns
        console = Console(width=max(console.width, LOG_COLUMNS))
    console.print(_ranked(space, report.ranking))
    if report.ranking.left_out:
        console.print(_left_out(report.ranking))
    for sentence in report.sentences:
        console.print(sentence, highlight=False)
    places = {"page": where(report.html), "table": where(report.trials)}
    places["best"] = "nothing is ranked" if report.best is None else where(report.best)
    for name, place in {**places, "MLflow": ui_command(result.handle.uri)}.items():
        console.print(f"{name:<8}{place}", soft_wrap=True, highlight=False, markup=False)


def _ranked(space: SearchSpace, ranking: Ranking) -> Table:
    columns = [*space.domains, space.metric, *space.shown]
    table = Table(title=f"{space.name}: best first by {space.metric}", title_justify="left")
    for column in ("", *columns, "trials"):
        table.add_column(_heading(column), overflow="fold")  # a narrow terminal must not cut numbers
    for one in ranking.configurations:
        trials = [trial for trial, _ in one.scores.values()]
        further = [_mean([trial.metrics.get(name) for trial in trials]) for name in space.shown]
        knobs = [shown(one.knobs.get(path)) for path in space.domains]
        names = ", ".join(f"{trial.name}{' (stopped)' if trial.status == 'stopped' else ''}" for trial in trials)
        table.add_row(str(one.rank), *knobs, with_spread(one), *further, names)
    return table


def _left_out(ranking: Ranking) -> Table:
    table = Table(title="not ranked", title_justify="left")
    for column in ("trial", "", "knobs", "why"):
        table.add_column(column, overflow="fold")
    for one in ranking.left_out:
        table.add_row(one.trial.name, one.how, described(one.trial.knobs), Text(one.reason))
    return table


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return shown(fmean(known)) if known else "-"


def _heading(path: str) -> str:
    """Return the last part of a path or metric, in words that a narrow terminal can break."""
    return path.removesuffix(".kind").replace("/", ".").split(".")[-1].replace("_", " ")
