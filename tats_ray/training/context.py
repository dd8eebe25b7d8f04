"""A worker's link to the other workers and to whoever started it.

Everything that one worker must know of the others goes through here; nothing below knows who launched it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from tats_ray.interruption import stop_asked
from tats_ray.tracking.progress import ProgressState


class WorkerContext(Protocol):
    """What the training loop needs from its launcher."""

    rank: int
    world_size: int
    device: torch.device
    awaits_checkpoints: bool
    """Whether the launcher decides at each checkpoint what becomes of the run, so that training waits for it."""

    def all_reduce(self, tensor: Tensor) -> None:
        """Add up ``tensor`` over all workers, in place."""
        ...

    def all_gather(self, value: object) -> list[object]:
        """Return every worker's value, by rank."""
        ...

    def progress(self, state: ProgressState) -> None:
        """Show where the run is; called by rank 0 once a step, must not block."""
        ...

    def checkpointed(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Tell the launcher of a complete checkpoint; called by all workers."""
        ...

    def stopping(self) -> bool:
        """Say whether this worker knows that the run should stop; asked once a step, must not block."""
        ...


class LocalContext:
    """One process, alone."""

    rank = 0
    world_size = 1
    awaits_checkpoints = False

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def all_reduce(self, tensor: Tensor) -> None:
        """Alone, the sum is the tensor."""

    def all_gather(self, value: object) -> list[object]:
        """Alone, there is one value."""
        return [value]

    def progress(self, state: ProgressState) -> None:
        """Show nothing; whoever shows a bar overrides this."""

    def checkpointed(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Nobody to tell."""

    def stopping(self) -> bool:
        """Say whether a signal asked this process to stop."""
        return stop_asked()


class DistributedContext(LocalContext):
    """One of several processes of an initialised ``torch.distributed`` group."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def all_reduce(self, tensor: Tensor) -> None:
        """Add up over the group."""
        dist.all_reduce(tensor)

    def all_gather(self, value: object) -> list[object]:
        """Gather over the group; ``value`` is pickled."""
        values: list[object] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values
