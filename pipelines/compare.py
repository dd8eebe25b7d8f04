"""Compare samplers: independent runs from the same start on the same clips, judged by probes on frozen features."""

import argparse
import sys
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from tats_ray.check import training_rate
from tats_ray.comparison.collect import Data, prepared
from tats_ray.comparison.plan import Comparison, Plan, by_arm, cost_rows
from tats_ray.comparison.recipes import ARMS, RECIPES, comparison, sampler
from tats_ray.config.command_line import ended, make_parser, parse
from tats_ray.config.overrides import change, parse_override
from tats_ray.config.run import TrainRun
from tats_ray.data.samples import Sample
from tats_ray.driver import RUN_ERRORS, RunFailedError
from tats_ray.tracking.store import ui_command

RATE_SECONDS = 1.0
PROBES = "probes."


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status, 1 when a run failed."""
    parsed = parse(_parser(), arguments)
    return ended(
        lambda: run(parsed), errors=(RunFailedError, *RUN_ERRORS, ValueError), again="the same command goes on"
    )


def run(parsed: argparse.Namespace) -> int:
    """Compare as the command line says, or show what that costs; return the exit status."""
    planned, data = prepared(wanted(parsed), Data(*parsed.data))
    show_cost(planned)
    if parsed.dry_run:
        return 0
    from tats_ray.cluster.compare import compare

    done = compare(planned, data)
    for sentence in done.report.sentences:
        print(f"* {sentence}")
    for name, reason in done.missing.items():
        print(f"missing   {name}: {reason}")
    print(f"report    {done.report.html}\n          {done.report.markdown}")
    print(f"MLflow    {ui_command(done.handle.uri)}")
    return int(bool(done.missing))


def wanted(parsed: argparse.Namespace) -> Comparison:
    """Return the comparison that the command line describes.

    Raises:
        ConfigError: An unknown name, or a value that breaks a rule.
    """
    named = comparison(parsed.recipe)
    given = {
        "arms": parsed.samplers and [sampler(name) for name in parsed.samplers],
        "ratios": parsed.ratios,
        "seeds": parsed.seeds,
        "warm_steps": parsed.warm_steps,
        "critic_steps": parsed.critic_steps,
        "steps": parsed.steps,
        "cooldown_steps": parsed.cooldown_steps,
        "references": parsed.references,
        "tasks": parsed.task,
    }
    named = replace(named, **{name: value for name, value in given.items() if value is not None})
    if parsed.samplers and parsed.references is None:
        named = replace(named, references=[name for name in named.references if name in parsed.samplers])
    pairs = [parse_override(text) for text in parsed.overrides]
    probes = {path.removeprefix(PROBES): value for path, value in pairs if path.startswith(PROBES)}
    run = change(named.run, [(path, value) for path, value in pairs if not path.startswith(PROBES)])
    return replace(named, run=run, probes={**named.probes, **probes})


def show_cost(planned: Plan) -> None:
    """Print what the comparison costs, and how long that takes on this machine."""
    rows = cost_rows(planned)
    table = Table(title=f"{planned.comparison.name}: {len(planned.runs)} runs", title_justify="left")
    for column in (*rows[0], "clips/s here"):
        table.add_column(column, justify="right")
    seconds = 0.0
    for row, (_, _, full, cut) in zip(rows, by_arm(planned), strict=True):
        rate = _clips_per_second(full.run)
        table.add_row(*row.values(), f"{rate:,.1f}")
        steps = full.steps + (cut.steps if cut else 0)
        seconds += len(planned.comparison.seeds) * steps * full.run.training.global_batch / rate
    warm = next(iter(planned.runs.values())).run
    clips = planned.comparison.warm_steps * warm.training.global_batch
    seconds += len(planned.comparison.seeds) * clips / _clips_per_second(warm)
    console = Console()
    console.print(table)
    console.print(
        f"{planned.flops / 1e15:,.3g} PFLOPs of training; one after the other on this device about "
        f"{seconds / 3600:,.2g} h, without decoding and probes",
        highlight=False,
    )


def _clips_per_second(run: TrainRun) -> float:
    shape = (run.data.num_frames, run.data.crop_size, run.data.crop_size, 3)
    noise = np.random.default_rng(0)
    samples = [
        Sample(n, "noise", noise.integers(0, 256, shape, dtype=np.uint8)) for n in range(run.training.micro_batch)
    ]
    device = torch.device("cuda" if torch.cuda.is_available() and run.cluster.use_gpu is not False else "cpu")
    return training_rate(run, samples, device, seconds=RATE_SECONDS)[0]


def _parser() -> argparse.ArgumentParser:
    bases = {name: _base(name) for name in RECIPES}
    parser = make_parser(__doc__ or "", bases, default="tiny")
    parser.add_argument(
        "--data", nargs=2, metavar=("TRAIN", "TEST"), required=True, help="labelled manifests of the probes"
    )
    parser.add_argument("--samplers", nargs="+", metavar="NAME", help=f"of {', '.join(ARMS)}")
    parser.add_argument("--ratios", nargs="+", type=float, metavar="RATIO", help="mask ratios")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="of weights, order of the clips and draws")
    parser.add_argument("--references", nargs="+", metavar="NAME", help="samplers that the others are compared with")
    parser.add_argument("--warm-steps", type=int, metavar="N", help="steps of the shared warm-up with random masks")
    parser.add_argument("--critic-steps", type=int, metavar="N", help="of these, at its end, with a critic that learns")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of each sampler after it")
    parser.add_argument("--cooldown-steps", type=int, metavar="N", help="of these, with a falling learning rate")
    parser.add_argument("--task", nargs="+", metavar="TASK", help="probes that judge: knn, ridge, linear, attentive")
    parser.add_argument("--dry-run", action="store_true", help="print what it would cost; start nothing")
    return parser


def _base(name: str):
    """Return a function that makes the run which a comparison's arms share, described as the comparison is."""

    def make() -> TrainRun:
        return RECIPES[name]().run

    make.__doc__ = RECIPES[name].__doc__
    return make


if __name__ == "__main__":
    sys.exit(main())
