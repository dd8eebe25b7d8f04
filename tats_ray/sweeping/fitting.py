"""The memory that a worker needs at least, so that what cannot fit is not started.

A lower bound: what it refuses cannot fit, and what it lets pass may still fail. It leaves out the process itself, the
kernels' scratch, bfloat16 copies of the weights, validation, and the copy that a checkpoint is written from.
"""

import math
from dataclasses import dataclass, replace

import torch

from tats_ray.config.run import TrainRun
from tats_ray.data.config import DataConfig
from tats_ray.masking.tats import TATSConfig
from tats_ray.methods.build import CHANNELS, build_method, training_kept_bytes

_FLOAT32, _BFLOAT16 = 4, 2
_GIB = 2**30


@dataclass(frozen=True)
class Need:
    """What one worker's memory holds at the moments at which it holds most; in bytes."""

    state: int
    """Parameters, and both moments of the autoencoder's AdamW."""
    gradients: int
    """Of the autoencoder."""
    clip: int
    """One clip's pixels."""
    kept: int
    """Of one clip, for the backward pass of the autoencoder."""
    sampler_kept: int
    """The same for the sampler's own backward pass; 0 without one."""
    rollouts: int
    """Clips that the sampler learns from at once; 0 without such a sampler."""
    micro_batch: int
    """Clips that a worker takes at once."""
    share: int
    """Clips of a step that a worker takes altogether."""
    workers: int

    @property
    def backward(self) -> int:
        """When the last forward pass of a step is over: clips and their patches, and gradients of earlier passes."""
        earlier = self.gradients if self.share > self.micro_batch else 0
        return self.micro_batch * (2 * self.clip + self.kept) + earlier

    @property
    def step(self) -> int:
        """When the optimiser steps: gradients, and the message that sums them up over several workers."""
        return self.gradients * (2 if self.workers > 1 else 1)

    @property
    def update(self) -> int:
        """When the sampler learns: all patches that were gathered, and one micro-batch's pass."""
        return self.rollouts * self.clip + self.micro_batch * self.sampler_kept

    @property
    def total(self) -> int:
        """At least so much."""
        return self.state + max(self.backward, self.step, self.update)


def least_bytes(run: TrainRun) -> int:
    """Return a lower bound of the memory of one worker: of its GPU where it has one, of its process where not."""
    return need(run).total


def why_it_cannot_fit(run: TrainRun, memory_bytes: float) -> str | None:
    """Say what does not fit, and what would; None where it may fit.

    Args:
        run: One trial's, complete.
        memory_bytes: Of one worker.
    """
    needed = need(run)
    if needed.total <= memory_bytes:
        return None
    moment = max(
        (needed.backward, f"{_gib(needed.backward)} in the backward pass of {needed.micro_batch} clips"),
        (needed.step, f"{_gib(needed.step)} of gradients"),
        (needed.update, f"{_gib(needed.update)} while the sampler learns"),
    )
    return (
        f"a worker needs at least {_gib(needed.total)}, {_gib(needed.state)} of them for parameters and moments and "
        f"{moment[1]}, and there are {_gib(memory_bytes)}; {_way_out(run, needed, memory_bytes)}"
    )


def need(run: TrainRun) -> Need:
    """Return what least_bytes is made of."""
    with torch.device("meta"):
        method = build_method(run.model, run.masking, grid=run.grid, total_steps=1, global_batch=1, seed=0)
    parameters = {
        name: _FLOAT32 * sum(parameter.numel() for parameter in module.parameters())
        for name, module in method.trainables().items()
    }
    kept = training_kept_bytes(
        run.model,
        run.masking,
        grid=run.grid,
        width=_BFLOAT16 if run.training.precision == "bf16" else _FLOAT32,
    )
    workers = max(1, run.cluster.num_workers)
    share = run.training.global_batch // workers
    visible = run.masking.visible
    learns_apart = isinstance(visible, TATSConfig)
    learns = learns_apart and _is_on_in_time(run, visible)
    together = kept["autoencoder"] + (0 if learns_apart else kept["sampler"])
    return Need(
        state=sum(parameters.values()) + 2 * parameters["autoencoder"],
        gradients=parameters["autoencoder"],
        clip=_clip_bytes(run.data),
        kept=0 if run.training.compile else together,  # what a compiled pass keeps is its compiler's choice
        sampler_kept=kept["sampler"] if learns else 0,
        rollouts=visible.ppo.rollout_steps * share if learns_apart and learns else 0,
        micro_batch=min(run.training.micro_batch, share),
        share=share,
        workers=workers,
    )


def _is_on_in_time(run: TrainRun, config: TATSConfig) -> bool:
    """Whether the sampler's critic surely learns: its step limit, seen at a validation, leaves room for an update."""
    total, every = run.training.steps, run.training.validate_every
    if total is None:
        return config.switch.critic_by < 1
    seen = max(1, math.ceil(config.switch.critic_by * total / every)) * every
    return seen + config.ppo.rollout_steps <= total


def _clip_bytes(data: DataConfig) -> int:
    return data.num_frames * data.crop_size**2 * CHANNELS


def _way_out(run: TrainRun, needed: Need, memory_bytes: float) -> str:
    fits = [size for size in range(1, needed.micro_batch) if replace(needed, micro_batch=size).total <= memory_bytes]
    if fits:
        return f"training.micro_batch={fits[-1]} may fit, with the same numbers"
    if not run.model.encoder.activation_checkpointing and needed.state + needed.step <= memory_bytes:
        return "model.encoder.activation_checkpointing=true keeps less"
    return "take a smaller model.encoder, shorter clips, or workers with more memory"


def _gib(count: float) -> str:
    return f"{count / _GIB:,.3g} GiB"
