"""An optimiser step by hand, with a module of two numbers."""

import pytest
import torch
from torch import nn

from tats_ray.training.context import LocalContext
from tats_ray.training.optim import Trainable
from tats_ray.training.stepper import GradientStepper, NotFiniteError


class Pair(nn.Module):
    """Two parameters, of which a loss may use one."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.idle = nn.Parameter(torch.tensor([5.0]))


def descent(*, max_grad_norm: float | None = None, max_skipped_steps: int = 2) -> tuple[Pair, GradientStepper]:
    module = Pair()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.5)
    plain = torch.optim.SGD(module.parameters(), lr=1.0)
    trainables = {
        "plain": Trainable(module, plain, max_grad_norm=max_grad_norm, schedule=None),
        "adam": Trainable(module, optimizer, max_grad_norm=max_grad_norm, schedule=None),
    }
    context = LocalContext(torch.device("cpu"))
    return module, GradientStepper(trainables, context, precision="fp32", max_skipped_steps=max_skipped_steps)


def test_sums_are_divided_by_the_clips() -> None:
    module, stepper = descent()
    stepper.accumulate("plain", (module.used * torch.tensor([1.0, 2.0])).sum())
    stepper.accumulate("plain", (module.used * torch.tensor([3.0, 0.0])).sum())
    assert stepper.step("plain", clips=4)
    assert module.used.tolist() == [3.0 - 4 / 4, 4.0 - 2 / 4]
    assert stepper.grad_norms["plain"] == pytest.approx((1 + 0.25) ** 0.5)


def test_gradients_do_not_outlive_their_step() -> None:
    module, stepper = descent()
    for _ in range(2):
        stepper.accumulate("plain", module.used.sum())
        stepper.step("plain", clips=1)
    assert module.used.tolist() == [1.0, 2.0]


def test_a_long_gradient_is_scaled_down_after_the_division() -> None:
    module, stepper = descent(max_grad_norm=0.5)
    stepper.accumulate("plain", (module.used * torch.tensor([6.0, 8.0])).sum())
    stepper.step("plain", clips=2)
    assert stepper.grad_norms["plain"] == 5.0  # as it was
    # torch divides by norm + 1e-6.
    assert module.used.tolist() == pytest.approx([3.0 - 0.3, 4.0 - 0.4], abs=1e-6)


def test_a_parameter_without_gradient_is_left_alone() -> None:
    module, stepper = descent()
    stepper.accumulate("adam", module.used.sum())
    stepper.step("adam", clips=1)
    assert module.idle.item() == 5.0  # not even decayed
    assert module.idle not in stepper.trainables["adam"].optimizer.state


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_a_step_that_is_not_finite_is_skipped_and_counted(bad: float) -> None:
    module, stepper = descent(max_grad_norm=0.5)
    stepper.accumulate("adam", module.used.sum() * bad)
    assert not stepper.step("adam", clips=1)
    assert module.used.tolist() == [3.0, 4.0]
    assert not stepper.trainables["adam"].optimizer.state
    assert stepper.skipped_steps == 1
    stepper.accumulate("adam", module.used.sum())
    assert stepper.step("adam", clips=1)  # nothing of the bad gradient is left
    assert module.used.isfinite().all()


def test_too_many_skips_end_the_run() -> None:
    module, stepper = descent(max_skipped_steps=2)
    for step in range(2):
        stepper.begin_step(step)
        stepper.accumulate("plain", module.used.sum() * torch.nan)
        stepper.step("plain", clips=1)
    stepper.begin_step(2)
    stepper.accumulate("plain", module.used.sum() * torch.nan)
    with pytest.raises(NotFiniteError, match=r"gradient of the plain .* in 3 steps.*optim.max_skipped_steps=2; lower"):
        stepper.step("plain", clips=1)


def test_a_training_step_counts_once_for_each_optimizer() -> None:
    """A rollout that is not finite spoils every minibatch of every pass over it."""
    module, stepper = descent(max_skipped_steps=3)
    for step in range(2):
        stepper.begin_step(step)
        for name in ("plain", "adam", "adam", "adam"):
            stepper.accumulate(name, module.used.sum() * (torch.nan if step == 0 else torch.inf))
            assert not stepper.step(name, clips=1)
            if step == 1 and name == "plain":
                break
    assert stepper.skipped_steps == 3


def test_a_step_without_clips_changes_nothing() -> None:
    module, stepper = descent()
    assert not stepper.step("adam", clips=0)
    assert (module.used.tolist(), module.idle.tolist()) == ([3.0, 4.0], [5.0])
    assert stepper.skipped_steps == 0


class OneOfTwo(LocalContext):
    """One of two workers; the other's part of the message is given."""

    world_size = 2

    def __init__(self, other: list[float]) -> None:
        super().__init__(torch.device("cpu"))
        self.other = torch.tensor(other)

    def all_reduce(self, tensor: torch.Tensor) -> None:
        tensor += self.other


def test_a_parameter_without_gradient_on_any_worker_is_left_alone() -> None:
    module, stepper = descent()
    # Gradients of used (2) and idle (1), which of the two have one, clips.
    stepper.context = OneOfTwo([1.0, 2.0, 0.0, 1.0, 0.0, 3.0])
    stepper.accumulate("adam", module.used.sum())
    stepper.step("adam", clips=1)
    assert module.idle.item() == 5.0
    assert module.idle not in stepper.trainables["adam"].optimizer.state


def test_a_worker_takes_over_gradients_that_it_has_not() -> None:
    module, stepper = descent()
    stepper.context = OneOfTwo([1.0, 2.0, 8.0, 1.0, 1.0, 3.0])
    stepper.accumulate("plain", module.used.sum())
    assert stepper.step("plain", clips=1)
    assert module.used.tolist() == [3.0 - 2 / 4, 4.0 - 3 / 4]
    assert module.idle.tolist() == [5.0 - 8 / 4]


def test_mean() -> None:
    _, stepper = descent()
    assert stepper.mean(torch.tensor(6.0), count=4) == 1.5
    assert stepper.mean(torch.tensor(0.0), count=0) == 0.0


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_autocast(precision: str, dtype: torch.dtype) -> None:
    _, stepper = descent()
    stepper.precision = precision  # type: ignore[assignment]
    with stepper.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
