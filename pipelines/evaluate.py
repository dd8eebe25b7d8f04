"""Evaluate a frozen encoder: probes on its features, and their health.

    python pipelines/evaluate.py --checkpoint RUN_OR_CHECKPOINT --task knn ridge --data train.parquet test.parquet

Results go to <run>/evaluations/<number>/ and, as a child run, to the MLflow store of the run that made the checkpoint.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tats_ray.config.command_line import ended, knobs_parser, parse
from tats_ray.config.overrides import ConfigError, parse_override
from tats_ray.copies import MirrorError, path_of, where
from tats_ray.data.manifest import Manifest, ManifestError
from tats_ray.data.part_files import PartError
from tats_ray.probing.config import TASKS, EvaluationConfig, changed, tasks_of
from tats_ray.probing.evaluate import FEATURES, evaluate, prepare
from tats_ray.probing.features import Extract, extract_here
from tats_ray.probing.frozen import FrozenEncoder
from tats_ray.probing.parts import Failure
from tats_ray.probing.record import Recorded, conduct_evaluation
from tats_ray.probing.results import Evaluation
from tats_ray.tracking.base import TrackingError
from tats_ray.tracking.store import ui_command
from tats_ray.training.state import CheckpointError

ERRORS = (CheckpointError, ConfigError, ManifestError, MirrorError, PartError, TrackingError, ValueError)
"""Errors whose message is all that a user needs."""
SHOWN = 5
"""Undecodable videos that are named on the terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parsed = parse(make_parser(), arguments)
    return ended(
        lambda: report(run(parsed)), errors=ERRORS, again="the same command goes on from the features that are there"
    )


def make_parser() -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = knobs_parser(
        __doc__ or "", EvaluationConfig(), usage="--checkpoint RUN_OR_PATH --task TASK [TASK ...] --data TRAIN TEST"
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="RUN_OR_PATH", help="folder or URI of a run, or of one checkpoint"
    )
    parser.add_argument("--task", required=True, nargs="+", metavar="TASK", help=f"one or more of {' '.join(TASKS)}")
    parser.add_argument(
        "--data",
        required=True,
        nargs=2,
        metavar=("TRAIN", "TEST"),
        help="labelled manifests of pipelines/index_videos.py; names of the classes stand in MANIFEST_STEM.classes.txt "
        "beside one of them, line n for class n, where there is such a file",
    )
    return parser


def run(parsed: argparse.Namespace) -> Recorded:
    """Evaluate as the command line says."""
    config = changed(EvaluationConfig(), [parse_override(text) for text in parsed.overrides])
    tasks = tasks_of(parsed.task)
    here = config.cluster.num_workers == 0
    on_gpu = torch.cuda.is_available() and config.cluster.use_gpu is not False
    frozen = FrozenEncoder.load(
        path_of(parsed.checkpoint), device=torch.device("cuda" if on_gpu else "cpu"), num_frames=config.num_frames
    )
    train, test = (Manifest.read(Path(path).expanduser() if "://" not in path else path) for path in parsed.data)
    console = Console(stderr=True)
    ready = prepare(frozen, train, test, tasks, config)
    if ready.tokens_gib:
        folder = frozen.folder / FEATURES
        console.print(f"tokens for the attentive probe: {ready.tokens_gib:.2g} GiB in {folder}", soft_wrap=True)

    def work() -> Evaluation:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("features", total=len(train) + len(test))
            extract = extractor(config, advance=lambda videos: progress.advance(task, videos), here=here)
            return evaluate(frozen, train, test, tasks, config, extract=extract)

    return conduct_evaluation(frozen, train, test, tasks, config, run=work)


def extractor(config: EvaluationConfig, *, advance: Callable[[int], object], here: bool) -> Extract:
    """Return what makes features: this process alone, or Ray, which is imported only then."""
    if here:
        return partial(extract_here, advance=advance)
    from tats_ray.cluster.features import extract_on_ray

    return partial(extract_on_ray, config=config.cluster, advance=advance)


def report(done: Recorded) -> None:
    """Print the results, and where everything is."""
    console, found = Console(), done.evaluation
    table = Table(title=f"evaluation {done.folder.name} of {where(done.folder.parents[1])}", title_justify="left")
    for column in ("probe", "tokens", "top-1 [95 % interval]", "top-5", "mean class", "coverage"):
        table.add_column(column, justify="left" if column == "probe" else "right")
    for result in found.results:
        got = result.accuracy
        table.add_row(
            result.task,
            f"{100 * result.token_ratio:.0f} %",
            f"{got.top1:.3f} [{got.top1_low:.3f}, {got.top1_high:.3f}]",
            "-" if got.top5 is None else f"{got.top5:.3f}",
            f"{got.mean_class:.3f}",
            f"{got.coverage:.3f}",
        )
    if found.results:
        console.print(table)
    for name, value in found.health.items():
        console.print(f"{name:<26} {value:.4g}", highlight=False)
    lines = {
        "held": f"{found.train_held} training and {found.test_held} test videos are shorter than a view",
        "overlap": f"{found.overlaps.pretraining} test videos were pre-trained on, the probes are trained on "
        f"{found.overlaps.train}",
        "undecoded": undecoded(found.test_failures, of="test videos, which count as wrong", at=done.folder),
        "left out": undecoded(found.train_failures, of="training videos", at=done.folder),
    }
    shown = {
        "held": found.train_held + found.test_held,
        "overlap": found.overlaps.pretraining + found.overlaps.train,
        "undecoded": len(found.test_failures),
        "left out": len(found.train_failures),
    }
    places = {"results": where(done.folder), "MLflow": ui_command(done.handle.uri)}
    for name, line in {**{name: line for name, line in lines.items() if shown[name]}, **places}.items():
        console.print(f"{name:<12} {line}", soft_wrap=True, highlight=False, markup=False)


def undecoded(failures: Sequence[Failure], *, of: str, at: Path) -> str:
    """Name the first videos that gave no view, and where all of them stand."""
    first = "; ".join(f"{failure.path}: {failure.reason}" for failure in failures[:SHOWN])
    more = f"; all of them in {where(at / 'evaluation.json')}" if len(failures) > SHOWN else ""
    return f"{len(failures)} {of}: {first}{more}"


if __name__ == "__main__":
    sys.exit(main())
