"""What the scripts that train share: their options, what executes a run, how it ends, and what they print.

Ray is imported where a run asks for it, and only then.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from tats_ray.config.command_line import ended
from tats_ray.config.files import to_yaml
from tats_ray.config.run import Run
from tats_ray.copies import where
from tats_ray.driver import RUN_ERRORS, Launch, Outcome, RunFailedError, conduct
from tats_ray.mirror import read_text
from tats_ray.tracking.store import ui_command, without_credentials
from tats_ray.worker import LEDGER, describe

R = TypeVar("R", bound=Run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what becomes of a run."""
    parser.add_argument("--fresh", action="store_true", help="start anew instead of resuming an interrupted run")
    parser.add_argument(
        "--dry-run", action="store_true", help="print config, token counts, parameters and FLOPs; start nothing"
    )


def run_command(
    resolve: Callable[[], R],
    parsed: argparse.Namespace,
    *,
    lines: Callable[[Outcome], Mapping[str, object]],
    instead: Callable[[R], int] | None = None,
) -> int:
    """Train the run, or show it, and say how it ended; return the exit status.

    Args:
        resolve: Returns the run that the command line describes.
        parsed: The options of :func:`add_options`.
        lines: What is printed of the end, between the tables and where things are, by name.
        instead: Done instead of training, where it is given.
    """

    def work() -> int:
        run = resolve()
        if instead is not None:
            return instead(run)
        if parsed.dry_run:
            return show(run)
        outcome = conduct(run, executor(run), check=checker(run), fresh=parsed.fresh)
        report(outcome, lines(outcome))
        return 0

    return ended(
        work,
        errors=(RunFailedError, *RUN_ERRORS, ValueError),
        again="the same command resumes a run that is not finished from its last checkpoint",
    )


def executor(run: Run) -> Callable[[Launch], None]:
    """Return what trains the run: this process alone, or Ray, which is imported only then."""
    if run.cluster.num_workers == 0:
        from tats_ray.worker import run_with_bar

        return run_with_bar
    from tats_ray.cluster.train import run_on_ray

    return run_on_ray


def checker(run: Run) -> Callable[[Run], object]:
    """Return what says at once that a run cannot be trained where it should be."""
    if run.cluster.num_workers == 0:
        return lambda run: None
    from tats_ray.cluster.train import check_cluster

    return check_cluster


def show(run: Run) -> int:
    """Print what the run would be."""
    sys.stdout.write(without_credentials(to_yaml(run)) + "\n")
    facts = describe(run)
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        sys.stdout.write(f"{name:<{width}}  {value}\n")
    return 0


def report(outcome: Outcome, lines: Mapping[str, object]) -> None:
    """Print the result, and where everything is."""
    run, folder = outcome.launch.run, outcome.launch.folder
    table = Table(title=f"{run.name}, run {folder.name}", title_justify="left")
    table.add_column("result")
    table.add_column("value", justify="right")
    for name, value in outcome.summary.items():
        table.add_row(name, f"{value:,.0f}" if value == int(value) and abs(value) >= 2 else f"{value:.4g}")
    console = Console()
    console.print(table)
    console.print(time_table(json.loads(read_text(folder / LEDGER))))
    pictures = (
        where(folder / "pictures") if run.training.picture_every else "none, since training.picture_every is null"
    )
    for name, value in {
        **lines,
        "checkpoint": where(folder / "checkpoints" / f"step_{int(outcome.summary['step']):08d}"),
        "pictures": pictures,
        "MLflow": ui_command(outcome.launch.handle.uri),
    }.items():
        console.print(f"{name:<12} {value}", soft_wrap=True, highlight=False, markup=False)


def time_table(ledger: dict) -> Table:
    """Say where the time of the whole run went, and how much of what the devices can do was used."""
    table = Table(title="where the time went", title_justify="left")
    table.add_column("part")
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    total = sum(ledger["seconds"].values())
    for part, seconds in ledger["seconds"].items():
        table.add_row(part, str(timedelta(seconds=round(seconds))), f"{100 * seconds / total:.1f} %")
    table.add_section()
    mfu = ledger["flops"] / total / ledger["peak_flops"]
    table.add_row("all", str(timedelta(seconds=round(total))), f"MFU {100 * mfu:.1f} %")
    return table
