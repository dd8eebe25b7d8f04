"""RayContext: a Ray Train worker's link to its launcher."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from tats_ray.cluster.gauges import Gauges
from tats_ray.tracking.progress import ProgressState
from tats_ray.training.context import DistributedContext

Board = Any
"""A handle of a ProgressBoard; Ray's types do not follow a call through ``ray.get``."""


@ray.remote(num_cpus=0)
class ProgressBoard:
    """Between driver and workers: how far the run is, what ended it, and that it should stop."""

    def __init__(self) -> None:
        self.state: ProgressState | None = None
        self.failure: BaseException | None = None
        self.stop = asyncio.Event()

    async def ask_to_stop(self) -> None:
        """Answer all that wait for it."""
        self.stop.set()

    async def asked_to_stop(self) -> None:
        """Return when the run should stop; a question that may stay open for ever, so that nobody asks twice."""
        await self.stop.wait()

    def write(self, state: ProgressState) -> None:
        """Replace the state."""
        self.state = state

    def read(self) -> ProgressState | None:
        """Return the last state; None before the first step."""
        return self.state

    def fail(self, error: BaseException) -> None:
        """Note an ending that trying again would not mend."""
        self.failure = error

    def read_failure(self) -> BaseException | None:
        """Return what went wrong; None if nothing did."""
        return self.failure


def make_board() -> Board:
    """Make a board that lies with its driver: on another machine it would be lost with that machine."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ProgressBoard.options(scheduling_strategy=here).remote()


class LostWorkerError(Exception):
    """Another worker went away in the middle of a sum or a gathering; Ray replaces them all."""


class RayContext(DistributedContext):
    """A worker of a TorchTrainer's group; ``run`` is what the run is called where it is watched."""

    def __init__(self, board: Board, *, run: str) -> None:
        super().__init__(ray.train.torch.get_device())
        self._board = board
        self._gauges = Gauges(run)
        self._asked_to_stop = board.asked_to_stop.remote()

    def all_reduce(self, tensor: Tensor) -> None:
        """Add up over the group.

        Raises:
            LostWorkerError: Another worker is gone.
        """
        with _together():
            super().all_reduce(tensor)

    def all_gather(self, value: object) -> list[object]:
        """Gather over the group; ``value`` is pickled.

        Raises:
            LostWorkerError: Another worker is gone.
        """
        with _together():
            return super().all_gather(value)

    def progress(self, state: ProgressState) -> None:
        """Write to the board without waiting for it, and show the state to whoever watches the cluster."""
        self._gauges.show(state)
        self._board.write.remote(state)

    def stopping(self) -> bool:
        """Look whether the board has answered; its answer comes by itself."""
        return bool(ray.wait([self._asked_to_stop], timeout=0, fetch_local=False)[0])

    def checkpointed(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Tell Ray how far the run is; a barrier for all workers.

        Not of the checkpoint: a run goes on from its own newest one, and Ray would refuse to begin where one that it
        was told of has been removed since.
        """
        ray.train.report(dict(metrics))


@contextmanager
def _together() -> Iterator[None]:
    """Tell a lost peer from a bug: both are a RuntimeError to torch, but in a collective call it is the peer."""
    try:
        yield
    except RuntimeError as error:
        raise LostWorkerError(f"another worker of this run is gone: {error}") from error
