"""Optimisers and schedules: VideoMAE's AdamW recipe for the autoencoder, a constant rate for a sampler of its own."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from timm.optim import param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

REFERENCE_BATCH = 256
"""Base learning rates are stated for this global batch and scaled linearly (Goyal et al. 2017, arXiv 1706.02677)."""


class OptimConfig(BaseModel):
    """How the autoencoder learns."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    base_learning_rate: float = Field(default=1.5e-4, gt=0)
    """Peak rate at a global batch of 256; scaled linearly with the global batch."""
    base_min_learning_rate: float = Field(default=1e-5, ge=0)
    """Final rate of the schedule, scaled likewise."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: a cosine over the whole run, or a constant rate that a cool-down ends. The latter is the same
    for runs of any length up to their cool-down, so that a long run can be cut short (``init_takes``)."""
    cooldown_share: float = Field(default=0.2, ge=0, le=1)
    """Share of the run, at its end, in which a constant schedule falls linearly to the final rate."""
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the run in which the rate rises linearly from zero (VideoMAE: 40 of 800 epochs)."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Of AdamW; not applied to biases, norms, positions and the mask token."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""
    max_grad_norm: float | None = Field(default=None, gt=0)
    """The gradient is scaled down to this norm; null leaves it alone, as VideoMAE does."""
    max_skipped_steps: int = Field(default=10, ge=0)
    """The run stops when more steps than this had a gradient that was not finite."""


class Trainable:
    """A module with its optimiser and schedule."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        max_grad_norm: float | None,
        schedule: Callable[[int], None] | None,
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.schedule = schedule
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    @property
    def learning_rate(self) -> float:
        """The present rate."""
        return self.optimizer.param_groups[0]["lr"]

    def set_step(self, step: int) -> None:
        """Set the learning rate to that of ``step``, counted from 0; a function of the step alone."""
        if self.schedule is not None:
            self.schedule(step)


def scheduled_trainable(module: nn.Module, config: OptimConfig, *, global_batch: int, total_steps: int) -> Trainable:
    """Build AdamW with linear warm-up and the configured schedule; the cosine is VideoMAE's."""
    scale = global_batch / REFERENCE_BATCH
    groups = param_groups_weight_decay(
        module, weight_decay=config.weight_decay, no_weight_decay_list=_undecayed(module)
    )
    optimizer = torch.optim.AdamW(groups, lr=config.base_learning_rate * scale, betas=config.betas, fused=True)
    make = _cosine if config.schedule == "cosine" else _constant
    schedule = make(optimizer, config, scale=scale, total_steps=total_steps)
    schedule(0)
    return Trainable(module, optimizer, max_grad_norm=config.max_grad_norm, schedule=schedule)


def constant_rate(step: int, config: OptimConfig, *, total_steps: int) -> float:
    """Return the base rate before step ``step``, counted from 0: warm-up, constant, linear cool-down.

    Hägele et al. 2024 (arXiv 2405.18392): such a run ends about as well as a cosine of its length, and its constant
    part serves runs of all lengths.
    """
    warmup, cooldown = round(config.warmup_share * total_steps), round(config.cooldown_share * total_steps)
    peak, lowest = config.base_learning_rate, config.base_min_learning_rate
    if step < warmup:
        return peak * step / warmup
    left = min(1.0, max(0, total_steps - step) / max(1, cooldown))
    return lowest + (peak - lowest) * left


def constant_trainable(module: nn.Module, *, learning_rate: float, max_grad_norm: float) -> Trainable:
    """Build the sampler's AdamW: constant rate, no weight decay, clipped gradient."""
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    return Trainable(module, optimizer, max_grad_norm=max_grad_norm, schedule=None)


def _cosine(
    optimizer: torch.optim.Optimizer, config: OptimConfig, *, scale: float, total_steps: int
) -> Callable[[int], None]:
    return CosineLRScheduler(
        optimizer,
        t_initial=total_steps,
        lr_min=config.base_min_learning_rate * scale,
        warmup_t=round(config.warmup_share * total_steps),
        warmup_lr_init=0.0,
        t_in_epochs=False,
    ).step_update


def _constant(
    optimizer: torch.optim.Optimizer, config: OptimConfig, *, scale: float, total_steps: int
) -> Callable[[int], None]:
    def set_rate(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = scale * constant_rate(step, config, total_steps=total_steps)

    return set_rate


def _undecayed(module: nn.Module) -> list[str]:
    names = [name for name, _ in module.named_parameters()]
    return [name for name in names if name.endswith(("mask_token", "positions"))]
