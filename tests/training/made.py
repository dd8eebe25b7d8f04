"""A loop over made-up shares: what it is made of, and what it is judged by."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tats_ray.masking.tats import SwitchConfig, TATSConfig
from tats_ray.rl.ppo import PPOConfig
from tats_ray.tracking.base import NullTracker
from tats_ray.tracking.progress import ProgressState
from tats_ray.training.context import LocalContext
from tats_ray.training.loop import Job, LoopState
from tats_ray.training.state import (
    load_checkpoint,
)

STEPS = 14


# Critic on at step 3 and policy at step 6; an update every 3 steps.
TATS = TATSConfig(
    embed_dim=8,
    num_heads=2,
    switch=SwitchConfig(error_spread=1e9, explained_variance=0.99, critic_by=3 / STEPS, policy_by=6 / STEPS),
    ppo=PPOConfig(rollout_steps=3, update_epochs=2, target_nats=0.1),
)


class Recorder(NullTracker):
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.points: dict[str, dict[int, float]] = {}
        self.files: list[tuple[str, str]] = []

    def log_file(self, path: Path, *, folder: str) -> None:
        self.files.append((path.name, folder))

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        for name, value in metrics.items():
            self.points.setdefault(name, {})[step] = value


class Watched(LocalContext):
    """Keeps what the launcher was told."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.seen: list[ProgressState] = []
        self.saved: list[str] = []
        self.asked_after: int | None = None

    def stopping(self) -> bool:
        done = self.seen[-1].step if self.seen else 0
        return self.asked_after is not None and done >= self.asked_after

    def progress(self, state: ProgressState) -> None:
        self.seen.append(state)

    def checkpointed(self, folder: Path, metrics: Mapping[str, float]) -> None:
        assert folder.is_dir()
        self.saved.append(folder.name)


def everything(job: Job) -> dict[str, Tensor]:
    """Weights and moments."""
    found = {
        f"{name}.{key}": value
        for name, module in job.method.modules().items()
        for key, value in module.state_dict().items()
    }
    for name, trainable in job.stepper.trainables.items():
        for number, moments in trainable.optimizer.state_dict()["state"].items():
            found |= {f"{name}.{number}.{key}": moments[key] for key in ("step", "exp_avg", "exp_avg_sq")}
    return found


def resumed(job: Job, folder: Path) -> LoopState:
    saved = load_checkpoint(folder, job.method.modules(), job.stepper.trainables, device=job.context.device)
    job.method.load_state_dict(saved["method"])  # type: ignore[arg-type]
    return LoopState(**saved["loop"])  # type: ignore[arg-type]
