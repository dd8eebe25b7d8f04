"""Train a small head on features that stay as they are: AdamW, cosine schedule with warm-up, seeded batches."""

import math
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from tats_ray.evaluation.standardize import Standardizer

Head = TypeVar("Head", bound=nn.Module)


class FittingConfig(BaseModel):
    """How a head is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    epochs: int = Field(default=100, ge=1)
    """Passes over the training rows."""
    batch: int = Field(default=64, ge=1)
    """Rows of one step; the last of an epoch may have fewer."""
    learning_rate: float = Field(default=1e-2, gt=0)
    """Peak rate of AdamW; not scaled with the batch."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Of AdamW, applied to matrices alone: not to biases, norms and the query."""
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the rate rises linearly; then it falls to 0 along a cosine."""


def seeded(build: Callable[[], Head], *, seed: int) -> Head:
    """Build a module whose initial weights are a function of the seed; the global generators end as they were."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the accelerators too.
        torch.default_generator.manual_seed(seed)
        return build()


@torch.enable_grad()
def fit_head(
    head: nn.Module, rows: Tensor, labels: Tensor, *, standardizer: Standardizer, config: FittingConfig, seed: int
) -> None:
    """Train a head by cross entropy.

    Args:
        head: From a batch of rows, standardised and float32, to logits; trained in place, where it is.
        rows: ``[rows, ...]``, of any floating-point type and on any device; a batch at a time is moved to the head's.
        labels: Integers ``[rows]``.
        standardizer: Applied to each batch.
        config: How.
        seed: Of the order of rows.
    """
    device = next(head.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    steps = config.epochs * math.ceil(len(rows) / config.batch)
    optimizer = torch.optim.AdamW(_decayed_matrices(head, config.weight_decay), lr=config.learning_rate, fused=True)
    warmup = min(round(config.warmup_share * steps), steps - 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(rate_at, steps=steps, warmup=warmup))
    head.train()
    for _ in range(config.epochs):
        for chosen in torch.randperm(len(rows), generator=generator).split(config.batch):
            chosen = chosen.to(rows.device)
            batch = standardizer(rows[chosen].to(device), dtype=torch.float32)
            loss = F.cross_entropy(head(batch), labels[chosen].to(device).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def rate_at(step: int, *, steps: int, warmup: int) -> float:
    """Return the learning rate of a step, counted from 0, as a share of its peak: above 0 in every step."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


@torch.no_grad()
def softmax_scores(head: nn.Module, rows: Tensor, *, standardizer: Standardizer, chunk: int) -> Tensor:
    """Score rows ``chunk`` at a time; float32 ``[rows, classes]`` on the device of ``rows``, each summing to 1."""
    device = next(head.parameters()).device
    head.eval()
    parts = [
        head(standardizer(part.to(device), dtype=torch.float32)).softmax(1).to(rows.device)
        for part in rows.split(chunk)
    ]
    return torch.cat(parts)


def _decayed_matrices(head: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    matrices = [parameter for parameter in head.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in head.parameters() if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
