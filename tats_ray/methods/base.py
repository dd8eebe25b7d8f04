"""What a training loop and a method know of each other."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from torch import Tensor, nn

from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid
from tats_ray.methods.averages import Averages


class Stepper(Protocol):
    """Mechanics of an optimiser step; the method decides their order. Implemented in ``training/stepper.py``."""

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision as configured."""
        ...

    def span(self, part: Literal["autoencoder", "sampler"]) -> AbstractContextManager[None]:
        """Book the time of a block under a part of the step; what the stepper does inside it, it books itself."""
        ...

    def accumulate(self, name: str, loss: Tensor) -> None:
        """Add the gradient of ``loss``, a sum over clips, to the trainable called ``name``."""
        ...

    def step(self, name: str, *, clips: int) -> bool:
        """Divide by the clips of all workers, and step; False when the gradient was not finite and was dropped."""
        ...

    def mean(self, total: Tensor, *, count: int) -> float:
        """Return the mean over all workers, equal on all of them: what control flow may depend on."""
        ...


@dataclass(frozen=True)
class HeldOut:
    """Clips that are never trained on, their fixed noise, and what is known of them."""

    batch: ClipBatch
    clocks: Tensor  # [clips, tokens]
    truth: Mapping[str, Tensor]  # name to [clips, tokens]: share of a token's area covered by "mover" or "twin"
    failures: Sequence[tuple[str, str]] = ()  # path and reason of the ones that did not decode
    labels: Tensor | None = None  # int64 [clips], on the host; None where a video has none


@dataclass(frozen=True)
class Snapshot:
    """One clip as the method sees it, for pictures; arrays on the host.

    There is nothing to show of predictions that are no pixels.
    """

    video: np.ndarray  # uint8 [frames, height, width, 3]
    grid: TokenGrid
    random_idx: np.ndarray  # [visible], drawn uniformly from the same clocks
    visible_idx: np.ndarray  # [visible], as the method draws them
    target_idx: np.ndarray | None  # [targets], what the decoder predicts in training; None for all hidden tokens
    probability: np.ndarray | None  # [tokens]; None for a fixed rule
    prediction: np.ndarray | None  # uint8 video: predicted patches alone, in normalised units around grey
    restored: np.ndarray | None  # uint8 video: predictions with the true patch statistics, visible patches as they are


@dataclass(frozen=True)
class RebuiltSnapshot:
    """One clip as a tokenizer sees it, for pictures; arrays on the host."""

    video: np.ndarray  # uint8 [frames, height, width, 3]
    grid: TokenGrid
    rebuilt: np.ndarray  # uint8 video
    kept_idx: np.ndarray  # [kept], the tokens that the decoder was given
    importance: np.ndarray  # [tokens], not negative


class Method(Protocol):
    """Everything that a training loop asks of a method."""

    @property
    def stage(self) -> str:
        """Name of the present stage of training."""
        ...

    @property
    def at_rest(self) -> bool:
        """Whether a checkpoint may be taken now: nothing gathered waits for an update."""
        ...

    def modules(self) -> Mapping[str, nn.Module]:
        """Modules by the names under which checkpoints hold their weights; first what the run is for."""
        ...

    def identity(self) -> Mapping[str, str]:
        """Name the present state of modules that others refer to, by the module's name; recorded with checkpoints."""
        ...

    def compile(self) -> None:
        """Compile what takes the time; parameters and their names stay as they are."""
        ...

    def trainables(self) -> Mapping[str, nn.Module]:
        """What learns together, by name; each has an optimiser of its own."""
        ...

    def train_step(self, batches: Iterable[ClipBatch], *, step: int, stepper: Stepper, averages: Averages) -> None:
        """Train on one worker's share of a global batch, given in micro-batches.

        Each is taken when the one before is done with: it is then that it comes to the device, and that the global
        random generator, dropout's, is seeded for it.
        """
        ...

    @property
    def time_slots(self) -> int:
        """Time slots of a clip."""
        ...

    def features(self, video: Tensor) -> Tensor:
        """Return features of uint8 clips, averaged within each time slot, ``[batch, time_slots * dim]``."""
        ...

    def validate(self, held_out: HeldOut, *, averages: Averages) -> None:
        """Measure on held-out clips."""
        ...

    def after_validation(self, measured: Mapping[str, float], *, step: int) -> Mapping[str, float]:
        """React to the mean of all workers' measurements; return events as metrics."""
        ...

    def snapshot(self, held_out: HeldOut) -> Snapshot | RebuiltSnapshot:
        """Return the first held-out clip as the method sees it."""
        ...

    def state_dict(self) -> dict[str, object]:
        """State beside the trainables' parameters; plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take over what :meth:`state_dict` returned."""
        ...
