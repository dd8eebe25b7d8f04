"""What every sweep's script does: resolve the base run, make videos if none are given, sweep, show the table."""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tats_ray.cluster.index import index_videos
from tats_ray.cluster.tune import SearchSpace, SweepResult, sweep
from tats_ray.config.command_line import make_parser, resolve
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.data.synthetic import SyntheticConfig, make_videos
from tats_ray.driver import RUN_ERRORS, RunFailedError, results_root
from tats_ray.interruption import Terminated
from tats_ray.recipes import RECIPES, recipe
from tats_ray.tracking.store import ui_command, without_credentials


def main(space: SearchSpace, *, description: str) -> int:
    """Run a sweep from the command line; return the exit status, 1 when a trial failed."""
    parsed = make_parser(description, RECIPES, default=space.recipe).parse_intermixed_args()
    try:
        run = resolve(parsed, recipe)
        if run.data.manifest is None:
            run = change(run, [("data.manifest", str(synthetic_manifest(run)))])
        result = sweep(space, run)
    except (*RUN_ERRORS, RunFailedError, ValueError) as error:
        sys.stderr.write(f"error: {without_credentials(str(error))}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; trials that ended are recorded\n")
        return 130
    except Terminated:
        sys.stderr.write("terminated; trials that ended are recorded\n")
        return 143
    show(space, result)
    return int(any(trial.error for trial in result.trials))


def synthetic_manifest(run: TrainRun) -> Path:
    """Return the manifest of self-made videos in the results folder, made when it is missing."""
    folder = results_root(run) / "videos"
    manifest = folder / "synthetic.parquet"
    if not manifest.exists():
        make_videos(folder / "synthetic", SyntheticConfig())
        index_videos(folder / "synthetic", out=manifest)
    return manifest


def show(space: SearchSpace, result: SweepResult) -> None:
    """Print the trials, best first, and where everything is."""
    columns = [*space.domains, space.metric, *space.shown]
    failed = any(trial.error for trial in result.trials)
    table = Table(title=f"{space.name}: best first by {space.metric}", title_justify="left")
    for column in ("trial", *columns, *(["error"] if failed else [])):
        table.add_column(_heading(column))
    for trial in result.trials:
        values = {**trial.knobs, **trial.metrics}
        cells = [_cell(values.get(column)) for column in columns]
        table.add_row(trial.name, *cells, *([trial.error or ""] if failed else []))
    console = Console()
    console.print(table)
    console.print(f"table     {result.table}", soft_wrap=True, highlight=False)
    console.print(f"MLflow    {ui_command(result.handle.uri)}", soft_wrap=True, highlight=False)


def _heading(path: str) -> str:
    """Return the last part of a path or metric, in words that a narrow terminal can break."""
    return path.removesuffix(".kind").replace("/", ".").split(".")[-1].replace("_", " ")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
