"""What the tests of Ray share that is no fixture."""

import os
import signal
from collections.abc import Callable
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from tats_ray.training.context import LocalContext


def dying_once(encode: Callable[..., None]) -> Callable[..., None]:
    """The first actor of all is killed when it has encoded a part, before it says so."""

    def encode_and_die(frozen: Any, work: Any, *rest: Any) -> None:
        encode(frozen, work, *rest)
        try:
            (work.folder / "died").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    return encode_and_die


def at_checkpoints(act: Callable[[], None]) -> type[LocalContext]:
    """A worker alone that acts when it tells of a checkpoint: when the next is due, or at its end."""
    return type("Acting", (LocalContext,), {"checkpointed": lambda self, folder, metrics: act()})


def children(client: MlflowClient, parent_run_id: str) -> list[Run]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.mlflow.parentRunId = '{parent_run_id}'"))


def steps_of(client: MlflowClient, run_id: str, metric: str) -> list[int]:
    """In the order in which they were recorded."""
    return [point.step for point in client.get_metric_history(run_id, metric)]
