"""What is normal: curves of error, rank of the features and probe of finished runs, for docs/reference_curves.md.

    python benchmarks/reference_curves.py NAME=RUN_FOLDER [NAME=RUN_FOLDER ...] --out docs/images/curves

writes one picture a metric and prints a table of their values along the run.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from tats_ray.config.files import read_run
from tats_ray.run_folder import read_status
from tats_ray.tracking.base import RunHandle
from tats_ray.tracking.charts import curves_chart
from tats_ray.tracking.mlflow import read_metric
from tats_ray.tracking.store import resolve_uri

METRICS = {
    "validation/random_mask_error": "error on common random masks, ratio 0.9",
    "probe/centred_rank": "Effective rank of centred mean features, directions",
    "probe/ridge_top1": "ridge probe, top-1 on held-out videos",
}
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Of a run's steps, at which the table reads the curves."""

Curve = list[tuple[int, float]]


def main() -> int:
    """Parse, read, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN_FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="beginning of the pictures' paths")
    options = parser.parse_args()
    runs = dict(text.split("=", 1) for text in options.runs)
    print("| run | metric | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |")
    print("|---|---|" + "---|" * len(SHARES))
    for metric, meaning in METRICS.items():
        curves = {name: read_curve(Path(folder), metric) for name, folder in runs.items()}
        found = {name: curve for name, curve in curves.items() if curve}
        if not found:
            print(f"no run has {metric}: are its videos labelled?", file=sys.stderr)
            return 1
        draw(found, Path(f"{options.out}_{metric.split('/')[1]}.png"), meaning)
        for name, curve in found.items():
            print(f"| {name} | `{metric}` | " + " | ".join(f"{at(curve, share):.3g}" for share in SHARES) + " |")
    return 0


def read_curve(folder: Path, metric: str) -> Curve:
    """Return the points of a run's metric from its MLflow record."""
    run = read_run(folder / "run.yaml")
    assert run.results is not None
    uri = resolve_uri(run.tracking.uri, results_root=Path(run.results))
    return read_metric(RunHandle(uri=uri, run_id=read_status(folder)["mlflow_run_id"], experiment_id=""), metric)


def draw(curves: Mapping[str, Curve], path: Path, meaning: str) -> None:
    """Draw all runs' curves of one metric."""
    points = {name: ([step for step, _ in curve], [value for _, value in curve]) for name, curve in curves.items()}
    curves_chart(points, path, xlabel="step", ylabel=meaning, title=meaning)


def at(curve: Curve, share: float) -> float:
    """Return the last value at or before a share of the steps, or the first."""
    until = share * curve[-1][0]
    return ([value for step, value in curve if step <= until] or [curve[0][1]])[-1]


if __name__ == "__main__":
    sys.exit(main())
