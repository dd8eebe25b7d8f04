"""A sweep as CSV, numbers in full: a row for each trial, and a row for each ranked configuration."""

import csv
from collections.abc import Sequence
from pathlib import Path

from tats_ray.sweeping.question import Question
from tats_ray.sweeping.ranking import Ranking
from tats_ray.sweeping.trials import Trial


def write_trials(question: Question, trials: Sequence[Trial], ranking: Ranking, path: Path) -> None:
    """Write a row for each trial, numbers in full, in the order in which they were declared."""
    counted = {trial.name: (one.rank, point) for one in ranking.configurations for trial, point in one.scores.values()}
    left_out = {one.trial.name: one for one in ranking.left_out}
    extra = list(dict.fromkeys(name for trial in trials for name in trial.metrics if name != question.metric))
    at = [question.metric, "at_step", "at_flops"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "status", "rank", *question.knobs, "seed", *at, *extra, "reason", "folder", "run_id"])
        for trial in trials:
            rank_of, point = counted.get(trial.name, ("", None))
            left = left_out.get(trial.name)
            values = ["", "", ""] if point is None else [point.value, point.step, point.flops]
            writer.writerow(
                [
                    trial.name,
                    left.how if left else trial.status,
                    rank_of,
                    *(trial.knobs.get(knob, "") for knob in question.knobs),
                    trial.seed,
                    *values,
                    *(trial.metrics.get(name, "") for name in extra),
                    left.reason if left else trial.reason or "",
                    trial.folder or "",
                    trial.run_id or "",
                ]
            )


def write_summary(question: Question, ranking: Ranking, path: Path) -> None:
    """Write a row for each ranked configuration, best first, numbers in full."""
    seeds = sorted({seed for one in ranking.configurations for seed in one.scores})
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        names = [f"seed_{seed}" for seed in seeds]
        writer.writerow(["rank", *question.knobs, "mean", "spread", "seeds", *names, "stopped_at", "left_out"])
        for one in ranking.configurations:
            writer.writerow(
                [
                    one.rank,
                    *(one.knobs.get(knob, "") for knob in question.knobs),
                    one.mean,
                    "" if one.spread is None else one.spread,
                    len(one.scores),
                    *(one.values.get(seed, "") for seed in seeds),
                    "" if one.stopped_at is None else one.stopped_at,
                    "; ".join(f"{left.trial.name}: {left.reason}" for left in one.left_out),
                ]
            )
