"""Train the adaptive tokenizer of long video: clips to discrete codes, and which of their tokens matter."""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.pretrain import checker, executor, show, time_table
from tats_ray.config.command_line import ConfigError, make_parser, resolve
from tats_ray.config.tokenizer_run import TokenizerRun
from tats_ray.driver import RUN_ERRORS, Outcome, RunFailedError, conduct
from tats_ray.interruption import Terminated
from tats_ray.recipes import TOKENIZER_RECIPES, tokenizer_recipe
from tats_ray.tracking.store import ui_command
from tats_ray.training.state import checkpoint_identity
from tats_ray.worker import LEDGER


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(__doc__ or "", TOKENIZER_RECIPES, default="tokenizer-tiny")
    parser.add_argument("--fresh", action="store_true", help="start anew instead of resuming an interrupted run")
    parser.add_argument(
        "--dry-run", action="store_true", help="print config, latents, parameters and FLOPs; start nothing"
    )
    parsed = parser.parse_intermixed_args(arguments)
    try:
        run = resolve(parsed, tokenizer_recipe, TokenizerRun)
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


def report(outcome: Outcome) -> None:
    """Print the result, the tokenizer's hash, and where everything is."""
    folder = outcome.launch.folder
    checkpoint = folder / "checkpoints" / f"step_{int(outcome.summary['step']):08d}"
    table = Table(title=f"{outcome.launch.run.name}, run {folder.name}", title_justify="left")
    table.add_column("result")
    table.add_column("value", justify="right")
    for name, value in outcome.summary.items():
        table.add_row(name, f"{value:,.0f}" if value == int(value) and abs(value) >= 2 else f"{value:.4g}")
    console = Console()
    console.print(table)
    console.print(time_table(json.loads((folder / LEDGER).read_text())))
    pictures: Path | str = folder / "pictures"
    if outcome.launch.run.training.picture_every is None:
        pictures = "none, since training.picture_every is null"
    for name, value in {
        "tokenizer": checkpoint_identity(checkpoint)["tokenizer"],
        "checkpoint": checkpoint,
        "pictures": pictures,
        "MLflow": ui_command(outcome.launch.handle.uri),
        "next": f"python pipelines/encode_clips.py --checkpoint {folder} --out CODES data.manifest=MANIFEST",
    }.items():
        console.print(f"{name:<12} {value}", soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
