"""Optimisers and schedules: VideoMAE's AdamW recipe for the autoencoder, a constant rate for a sampler of its own."""

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
    """Final rate of the cosine schedule, scaled likewise."""
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
        scheduler: CosineLRScheduler | None,
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.scheduler = scheduler
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    @property
    def learning_rate(self) -> float:
        """The present rate."""
        return self.optimizer.param_groups[0]["lr"]

    def set_step(self, step: int) -> None:
        """Set the learning rate to that of ``step``, counted from 0; a function of the step alone."""
        if self.scheduler is not None:
            self.scheduler.step_update(step)


def cosine_trainable(module: nn.Module, config: OptimConfig, *, global_batch: int, total_steps: int) -> Trainable:
    """Build AdamW with linear warm-up and cosine decay, as VideoMAE's pre-training."""
    scale = global_batch / REFERENCE_BATCH
    groups = param_groups_weight_decay(
        module, weight_decay=config.weight_decay, no_weight_decay_list=_undecayed(module)
    )
    optimizer = torch.optim.AdamW(groups, lr=config.base_learning_rate * scale, betas=config.betas, fused=True)
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=total_steps,
        lr_min=config.base_min_learning_rate * scale,
        warmup_t=round(config.warmup_share * total_steps),
        warmup_lr_init=0.0,
        t_in_epochs=False,
    )
    return Trainable(module, optimizer, max_grad_norm=config.max_grad_norm, scheduler=scheduler)


def constant_trainable(module: nn.Module, *, learning_rate: float, max_grad_norm: float) -> Trainable:
    """Build the sampler's AdamW: constant rate, no weight decay, clipped gradient."""
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    return Trainable(module, optimizer, max_grad_norm=max_grad_norm, scheduler=None)


def _undecayed(module: nn.Module) -> list[str]:
    names = [name for name, _ in module.named_parameters()]
    return [name for name in names if name.endswith(("mask_token", "positions"))]
