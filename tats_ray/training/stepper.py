"""Mechanics of an optimiser step: precision, sums over clips and workers, finite check, clipping, schedule.

Gradients are those of a *sum* over clips and are divided once, after all workers' sums and clip counts are added up. So
a share that lost clips to bad files, or lost all of them, weighs exactly what it holds, and the result depends neither
on micro-batches nor on the number of workers.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

from tats_ray.training.context import WorkerContext
from tats_ray.training.ledger import Ledger, Part, clock_of
from tats_ray.training.optim import Trainable

Precision = Literal["bf16", "fp32"]


class NotFiniteError(Exception):
    """More steps than allowed had a gradient that was not finite."""


class GradientStepper:
    """Implements :class:`tats_ray.methods.base.Stepper` for one worker."""

    def __init__(
        self,
        trainables: Mapping[str, Trainable],
        context: WorkerContext,
        *,
        precision: Precision,
        max_skipped_steps: int,
    ) -> None:
        self.trainables = trainables
        self.context = context
        self.precision: Precision = precision
        self.max_skipped_steps = max_skipped_steps
        self.skipped_steps = 0
        self.grad_norms: dict[str, float] = {}
        self.ledger = Ledger(clock_of(context.device))
        self._skipped: set[str] = set()  # in this training step

    def begin_step(self, step: int) -> None:
        """Set the schedules to a training step, counted from 0, of which each optimiser may be one skipped step."""
        self._skipped.clear()
        for trainable in self.trainables.values():
            trainable.set_step(step)

    def span(self, part: Part) -> AbstractContextManager[None]:
        """Book the time of a block under a part of the ledger."""
        return self.ledger.span(part)

    @property
    def dtype(self) -> torch.dtype:
        """In which matrices are multiplied."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def autocast(self) -> AbstractContextManager[object]:
        """bf16 where it pays, or nothing."""
        return torch.autocast(self.context.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def accumulate(self, name: str, loss: Tensor) -> None:
        """Add the gradient of ``loss``, a sum over clips."""
        loss.backward()

    def step(self, name: str, *, clips: int) -> bool:
        """Divide the gradients by the clips of all workers, and step.

        Returns:
            False when the gradient was not finite: nothing was changed, and the skip is counted.

        Raises:
            NotFiniteError: More skips than ``max_skipped_steps``.
        """
        with self.span("optimizer"):
            return self._step(name, clips=clips)

    def _step(self, name: str, *, clips: int) -> bool:
        trainable = self.trainables[name]
        total_clips = self._sum_gradients(trainable.parameters, clips)
        if total_clips == 0:  # every clip of this global batch failed to decode
            trainable.optimizer.zero_grad(set_to_none=True)
            return False
        gradients = [p.grad for p in trainable.parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients)) / total_clips
        finite = math.isfinite(norm)
        if finite:
            limit = trainable.max_grad_norm or math.inf
            # The mean and the limit in one pass; 1e-6 as in torch's own clipping.
            divisor = total_clips / min(1.0, limit / (norm + 1e-6))
            torch._foreach_div_(gradients, divisor)  # pyright: ignore[reportPrivateImportUsage]
            self.grad_norms[name] = norm
            trainable.optimizer.step()
        trainable.optimizer.zero_grad(set_to_none=True)
        if not finite:
            self._count_skip(name)
        return finite

    def mean(self, total: Tensor, *, count: int) -> float:
        """Return the mean over all workers."""
        both = torch.stack(
            [total.double().to(self.context.device), torch.tensor(float(count), device=self.context.device).double()]
        )
        self.context.all_reduce(both)
        value, number = both.tolist()
        return value / max(number, 1.0)

    def _sum_gradients(self, parameters: list[torch.nn.Parameter], clips: int) -> int:
        """Add up gradients and clip counts over the workers in one message; return the clips of all.

        A parameter without gradient on every worker keeps none: AdamW then leaves it and its moments alone.
        """
        if self.context.world_size == 1:
            return clips
        have = torch.tensor([float(p.grad is not None) for p in parameters] + [float(clips)])
        grads = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in parameters]
        message = torch.cat([*grads, have.to(self.context.device)])
        self.context.all_reduce(message)
        *have_any, total_clips = message[-len(parameters) - 1 :].tolist()
        parts = message[: -len(parameters) - 1].split([p.numel() for p in parameters])
        for parameter, part, used in zip(parameters, parts, have_any, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype) if used else None
        return round(total_clips)

    def _count_skip(self, name: str) -> None:
        if name in self._skipped:  # one bad rollout spoils every minibatch of its update
            return
        self._skipped.add(name)
        self.skipped_steps += 1
        if self.skipped_steps > self.max_skipped_steps:
            raise NotFiniteError(
                f"the gradient of the {name} was not finite in {self.skipped_steps} steps, more than "
                f"optim.max_skipped_steps={self.max_skipped_steps}; lower optim.base_learning_rate, set "
                f"optim.max_grad_norm, or use training.precision=fp32"
            )
