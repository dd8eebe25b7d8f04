"""Runs of a few steps in this process, stopped where a test says, and what is left of them."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from tats_ray.config.run import TrainRun
from tats_ray.driver import Outcome, conduct
from tats_ray.run_folder import read_status
from tats_ray.tracking.progress import ProgressState
from tats_ray.training.context import LocalContext
from tats_ray.worker import Launch, run_alone

STEPS = 8


Execute = Callable[[Launch], None]


class Interrupted(LocalContext):
    """Does something once a step is over, before the next begins."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        super().__init__(torch.device("cpu"))
        self._step, self._act = step, act

    def progress(self, state: ProgressState) -> None:
        if state.step == self._step:
            self._act()


def executor(step: int = -1, act: Callable[[], None] = lambda: None) -> Execute:
    return lambda launch: run_alone(launch, Interrupted(step, act))


def killed(run: TrainRun, *, step: int) -> Path:
    """Interrupt a run at once after a step, by a second Ctrl-C; return its folder."""

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        conduct(run, executor(step, twice))
    assert run.results is not None
    return max((Path(run.results) / run.name).iterdir())


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    folder = outcome.launch.folder / "checkpoints" / f"step_{STEPS:08d}"
    return {
        f"{name}.{key}": value
        for name in ("autoencoder", "tats")
        for key, value in load_file(folder / f"{name}.safetensors").items()
    }


def mlflow_status(client: MlflowClient, folder: Path) -> str:
    return client.get_run(read_status(folder)["mlflow_run_id"]).info.status
