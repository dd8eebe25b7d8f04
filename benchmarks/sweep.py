"""How soon a trial of a sweep trains, and what its checkpoints cost.

    python benchmarks/sweep.py [--trials 4] [--steps 200] [path=value ...]

``start`` is from Tune's decision to start a trial to the record of its first step, for a new process and for one that
had a trial before. ``reporting`` is what a trial does beside training at its checkpoints, as a share of its wall time:
the gap between two recorded steps with a checkpoint between them, less the median gap. No scheduler decides, as by
default; with one, a trial waits at each checkpoint for its file and the answer.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from ray import tune

from tats_ray.cluster.recorder import Recorder
from tats_ray.cluster.search_space import SearchSpace
from tats_ray.cluster.sweep_command import synthetic_manifest
from tats_ray.cluster.tune import SweepResult, sweep
from tats_ray.config.overrides import change, parse_override
from tats_ray.recipes import recipe

EVERY = 20


def main() -> None:
    """Sweep with every step recorded, and read the clock off the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("overrides", nargs="*", metavar="path=value")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = change(recipe("tiny"), [("results", folder), *map(parse_override, options.overrides)])
        if run.data.manifest is None:
            run = change(run, [("data.manifest", str(synthetic_manifest(run)))])
        space = SearchSpace(
            name="benchmark",
            recipe="tiny",
            metric="validation/random_mask_error",
            mode="min",
            domains={"optim.weight_decay": tune.choice([number / 100 for number in range(options.trials)])},
            fixed={
                "training.steps": options.steps,
                "training.checkpoint_every": EVERY,
                "training.validate_every": options.steps,
                "training.picture_every": None,
                "tracking.log_every": 1,
            },
        )
        decided: dict[str, float] = {}
        _watch(decided)
        _print(sweep(space, run), decided)


def _watch(decided: dict[str, float]) -> None:
    """Note when Tune decides to start each trial."""

    def on_trial_start(self: Recorder, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        decided[str(trial)] = time.time()

    Recorder.on_trial_start = on_trial_start  # type: ignore[method-assign]


def _print(result: SweepResult, decided: dict[str, float]) -> None:
    client = MlflowClient(result.handle.uri)
    for trial in result.trials:
        assert trial.run_id is not None
        points = client.get_metric_history(trial.run_id, "reconstruction/loss")
        times = {point.step: point.timestamp / 1000 for point in points}
        gaps = {step: times[step + 1] - times[step] for step in times if step + 1 in times}
        plain = statistics.median(gap for step, gap in gaps.items() if step % EVERY)
        meetings = [gap - plain for step, gap in gaps.items() if step % EVERY == 0]
        wall = max(times.values()) - min(times.values())
        print(
            f"trial {trial.name}  start {times[1] - decided[trial.name]:5.1f} s  step {plain * 1000:6.1f} ms  "
            f"meeting {statistics.median(meetings) * 1000:6.1f} ms (median of {len(meetings)}, one in {EVERY} steps)  "
            f"reporting {sum(meetings) / wall:.1%} of the wall time"
        )
    print(f"folder of the sweep: {Path(result.folder).name}; 1 to {len(result.trials)} trials at once, as CPUs allowed")


if __name__ == "__main__":
    main()
