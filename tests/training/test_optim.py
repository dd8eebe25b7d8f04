"""The schedule and the groups by hand."""

import math

import pytest
import torch
from torch import nn

from tats_ray.training.optim import (
    OptimConfig,
    Trainable,
    constant_rate,
    constant_trainable,
    scheduled_trainable,
)


class Parts(nn.Module):
    """One parameter of every sort that the rule of weight decay tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.positions = nn.Parameter(torch.zeros(4, 2))
        self.mask_token = nn.Parameter(torch.zeros(1, 2))


def trainable(*, global_batch: int = 512) -> Trainable:
    config = OptimConfig(base_learning_rate=0.1, base_min_learning_rate=0.01, warmup_share=0.1)
    return scheduled_trainable(Parts(), config, global_batch=global_batch, total_steps=100)


def rate(step: int, *, global_batch: int = 512) -> float:
    made = trainable(global_batch=global_batch)
    made.set_step(step)
    return made.learning_rate


def test_warm_up_is_linear_from_zero() -> None:
    # A global batch of 512 doubles the base rates: peak 0.2, reached after 10 of 100 steps.
    assert [rate(step) for step in (0, 1, 5, 9)] == pytest.approx([0.0, 0.02, 0.1, 0.18])


@pytest.mark.parametrize("step", [10, 40, 55, 99, 100])
def test_then_a_cosine_to_the_minimum(step: int) -> None:
    # The cosine runs over all 100 steps, its first tenth hidden under the warm-up.
    assert rate(step) == pytest.approx(0.02 + 0.5 * (0.2 - 0.02) * (1 + math.cos(math.pi * step / 100)), rel=1e-6)


def test_the_rate_is_linear_in_the_global_batch() -> None:
    for step in (3, 50, 100):
        assert rate(step, global_batch=64) == pytest.approx(rate(step, global_batch=512) / 8)


def test_the_rate_is_a_function_of_the_step_alone() -> None:
    made = trainable()
    for step in (70, 3, 50):
        made.set_step(step)
    assert made.learning_rate == rate(50)


def test_weight_decay_spares_what_is_no_weight() -> None:
    made = trainable()
    names = {parameter: name for name, parameter in made.module.named_parameters()}
    decay = {names[p]: group["weight_decay"] for group in made.optimizer.param_groups for p in group["params"]}
    assert decay == {
        "linear.weight": 0.05,
        "linear.bias": 0.0,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "positions": 0.0,
        "mask_token": 0.0,
    }
    assert all(group["betas"] == (0.9, 0.95) for group in made.optimizer.param_groups)


def test_the_samplers_rate_is_constant_and_nothing_decays() -> None:
    made = constant_trainable(Parts(), learning_rate=1.5e-3, max_grad_norm=0.5)
    for step in (0, 10, 1000):
        made.set_step(step)
        assert made.learning_rate == 1.5e-3
    assert [group["weight_decay"] for group in made.optimizer.param_groups] == [0.0]
    assert made.max_grad_norm == 0.5


@pytest.mark.parametrize(
    ("step", "wanted"), [(0, 0.0), (5, 0.1), (10, 0.2), (79, 0.2), (80, 0.2), (90, 0.11), (99, 0.029), (100, 0.02)]
)
def test_a_constant_rate_and_its_cool_down_by_hand(step: int, wanted: float) -> None:
    config = OptimConfig(
        base_learning_rate=0.1, base_min_learning_rate=0.01, warmup_share=0.1, schedule="constant", cooldown_share=0.2
    )
    made = scheduled_trainable(Parts(), config, global_batch=512, total_steps=100)
    made.set_step(step)
    assert made.learning_rate == pytest.approx(wanted)


def test_runs_of_all_lengths_share_the_constant_part() -> None:
    def rates(total: int, cooldown: int) -> list[float]:
        config = OptimConfig(schedule="constant", warmup_share=10 / total, cooldown_share=cooldown / total)
        return [constant_rate(step, config, total_steps=total) for step in range(total)]

    assert rates(100, 20)[:50] == rates(70, 20)[:50]
    assert rates(100, 20)[80:] == pytest.approx(rates(70, 20)[50:])
