"""Pre-train a video encoder: a masked autoencoder, jointly with the sampler that chooses its visible tokens."""

import os
import sys

import torch

from tats_ray.check import check, first_change
from tats_ray.cluster.train_command import add_options, run_command
from tats_ray.config.command_line import make_parser, parse, resolve
from tats_ray.config.run import TrainRun
from tats_ray.driver import results_root
from tats_ray.recipes import RECIPES, recipe


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = make_parser(__doc__ or "", RECIPES, default="tiny")
    add_options(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="decode 100 clips, train a few steps, say how fast and what to change first",
    )
    parsed = parse(parser, arguments)
    return run_command(
        lambda: resolve(parsed, recipe),
        parsed,
        lines=lambda outcome: {"sampler": switched_on(outcome.summary)},
        instead=show_check if parsed.check else None,
    )


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
