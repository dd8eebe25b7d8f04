"""How long a checkpoint keeps training waiting, and how much it slows what runs beside its write.

    python benchmarks/checkpoint.py --recipe tats-base --folder /somewhere/with/space

``blocked`` is the copy to the host, during which nothing trains (the first one also finds the memory); ``written`` is
the whole write in the background. While it runs, a loop of short sleeps in the main thread measures the longest pause
(the interpreter's lock, the memory bus).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from tats_ray.recipes import RECIPES, recipe
from tats_ray.training.checkpointer import Checkpointer, Retention
from tats_ray.training.context import LocalContext
from tats_ray.training.state import capture
from tats_ray.worker import build, make_trainables


def main() -> None:
    """Parse, save some checkpoints, print what each cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=list(RECIPES), default="tats-base")
    parser.add_argument("--folder", type=Path, default=None, help="where checkpoints are written (default: temporary)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    run, device = recipe(options.recipe), torch.device(options.device)
    method = build(run, 10, device)
    trainables = make_trainables(run, method, 10)
    for trainable in trainables.values():
        for parameter in trainable.parameters:
            parameter.grad = torch.zeros_like(parameter)
        trainable.optimizer.step()  # makes the moments
        trainable.optimizer.zero_grad(set_to_none=True)
    blocked, written, pauses = [], [], []
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        Checkpointer(Path(folder), LocalContext(device), Retention(1)) as checkpointer,
    ):
        for step in range(options.rounds):
            began = time.perf_counter()
            checkpointer.save(
                lambda over, step=step: capture(
                    step=step,
                    modules=method.modules(),
                    trainables=trainables,
                    state={},
                    measured={},
                    run_id=None,
                    over=over,
                ),
                measured={},
            )
            blocked.append(time.perf_counter() - began)
            pauses.append(_longest_pause(checkpointer))
            written.append(time.perf_counter() - began)
            checkpointer.settle()
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    print(f"{options.recipe}, {device}, {size / 1e9:.2f} GB a checkpoint, {options.rounds} rounds, median (min to max)")
    for name, seconds in (("blocked", blocked), ("written", written), ("longest pause", pauses)):
        print(f"{name:<14} {statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f})")


def _longest_pause(checkpointer: Checkpointer) -> float:
    longest, before = 0.0, time.perf_counter()
    while checkpointer.writing:
        time.sleep(0.001)
        now = time.perf_counter()
        longest, before = max(longest, now - before), now
    return longest


if __name__ == "__main__":
    main()
