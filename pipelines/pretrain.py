"""Pre-train a video encoder: a masked autoencoder, jointly with the sampler that chooses its visible tokens."""

import json
import os
import sys
from datetime import timedelta

import torch
from rich.console import Console
from rich.table import Table

from tats_ray.check import check, first_change
from tats_ray.config.command_line import ConfigError, make_parser, resolve
from tats_ray.config.files import to_yaml
from tats_ray.config.run import TrainRun
from tats_ray.driver import RUN_ERRORS, Outcome, RunFailedError, conduct, results_root
from tats_ray.interruption import Terminated
from tats_ray.recipes import RECIPES, recipe
from tats_ray.tracking.store import ui_command
from tats_ray.worker import LEDGER, describe


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(__doc__ or "", RECIPES, default="tiny")
    parser.add_argument("--fresh", action="store_true", help="start anew instead of resuming an interrupted run")
    parser.add_argument(
        "--dry-run", action="store_true", help="print config, token counts, parameters and FLOPs; start nothing"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="decode 100 clips, train a few steps, say how fast and what to change first",
    )
    parsed = parser.parse_intermixed_args(arguments)
    try:
        run = resolve(parsed, recipe)
        if parsed.check:
            return show_check(run)
        if parsed.dry_run:
            return show(run)
        outcome = conduct(run, executor(run), check=checker(run), fresh=parsed.fresh)
    except (ConfigError, RunFailedError, *RUN_ERRORS, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return 130
    except Terminated:
        print("terminated; the same command resumes from the last checkpoint", file=sys.stderr)
        return 143
    report(outcome)
    return 0


def executor(run: TrainRun):
    """Return what trains the run: this process alone, or Ray, which is imported only then."""
    if run.cluster.num_workers == 0:
        from tats_ray.worker import run_with_bar

        return run_with_bar
    from tats_ray.cluster.train import run_on_ray

    return run_on_ray


def checker(run: TrainRun):
    """Return what says at once that a run cannot be trained where it should be."""
    if run.cluster.num_workers == 0:
        return lambda run: None
    from tats_ray.cluster.train import check_cluster

    return check_cluster


def show(run: TrainRun) -> int:
    """Print what the run would be."""
    print(to_yaml(run))
    facts = describe(run)
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return 0


def show_check(run: TrainRun) -> int:
    """Print how a run would fare; return 1 where it would lose too many clips."""
    device = torch.device("cuda" if torch.cuda.is_available() and run.cluster.use_gpu is not False else "cpu")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = check(run, device=device, sheet=results_root(run) / run.name / "check.png")
    width, height = found.frame_size
    lines = {
        "decoded": f"{found.clips - len(found.failures)} of {found.clips} clips, {100 * found.lost_share:.1f} % lost; "
        f"{found.held} of videos shorter than a clip (data.short_videos={run.data.short_videos})",
        "decoding": f"{found.decode_rate:.1f} clips/s on one core, {run.data.num_frames} frames of {width}x{height} "
        f"(median) to {run.data.crop_size} pixels",
        "training": f"{found.train_rate:.1f} clips/s on this {device.type}, {run.training.precision}, steps of "
        f"{found.batch} clips",
        "cores": f"this model needs {found.cores_per_worker:.2g} cores per worker with these files; this machine has "
        f"{cores}",
        "clips": found.sheet or "no picture, since training.picture_every is null",
        "change first": first_change(found, run, cores=cores),
    }
    for name, value in lines.items():
        print(f"{name:<13} {value}")
    for path, reason in found.failures:
        print(f"lost          {path}: {reason}")
    return int(found.lost_share > run.data.max_failed_share)


def report(outcome: Outcome) -> None:
    """Print the result, and where everything is."""
    table = Table(title=f"{outcome.launch.run.name}, run {outcome.launch.folder.name}", title_justify="left")
    table.add_column("result")
    table.add_column("value", justify="right")
    for name, value in outcome.summary.items():
        table.add_row(name, f"{value:,.0f}" if value == int(value) and abs(value) >= 2 else f"{value:.4g}")
    console = Console()
    console.print(table)
    console.print(time_table(json.loads((outcome.launch.folder / LEDGER).read_text())))
    folder = outcome.launch.folder
    for name, value in {
        "sampler": switched_on(outcome.summary),
        "checkpoint": folder / "checkpoints" / f"step_{int(outcome.summary['step']):08d}",
        "pictures": folder / "pictures"
        if outcome.launch.run.training.picture_every is not None
        else "none, since training.picture_every is null",
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


def switched_on(summary: dict[str, float]) -> str:
    """Say when the sampler was switched on, and what it prefers."""
    if "sampler/policy_on_step" not in summary:
        return "none was switched on"
    why = "measured criterion" if summary["sampler/policy_on_measured"] else "step limit"
    lifts = ", ".join(
        f"{name} lift {summary[f'sampler/{name}_lift']:.2f}"
        for name in ("motion", "mover", "twin")
        if f"sampler/{name}_lift" in summary
    )
    return f"switched on at step {summary['sampler/policy_on_step']:.0f} by the {why}; {lifts}"


if __name__ == "__main__":
    sys.exit(main())
