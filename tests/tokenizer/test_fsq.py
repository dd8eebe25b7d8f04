"""FSQ against enumeration of all codes, and against the formula by hand."""

import itertools
import math

import pytest
import torch

from tats_ray.tokenizer.fsq import FSQ

LEVELS = ([8] * 6, [8, 8, 8, 5, 5, 5], [8, 6, 5], [4] * 9, [3, 2, 7])


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_zero_has_the_code_zero_exactly(levels: list[int]) -> None:
    code = FSQ(levels)(torch.zeros(3, len(levels)))
    assert torch.equal(code, torch.zeros(3, len(levels)))


@pytest.mark.parametrize("levels", LEVELS[:4], ids=str)
def test_numbers_and_codes_go_there_and_back(levels: list[int]) -> None:
    fsq = FSQ(levels)
    assert fsq.size == math.prod(levels)
    index = torch.arange(fsq.size) if fsq.size < 3000 else torch.randint(fsq.size, (3000,))
    code = fsq.code(index)
    assert torch.equal(fsq.index(code), index)
    assert code.min() >= -1
    assert code.max() <= 1


def test_numbers_are_those_of_an_enumeration() -> None:
    levels = [3, 2, 4]
    fsq = FSQ(levels)
    # The first dimension counts fastest: itertools counts the last one fastest, so it gets them backwards.
    by_hand = [
        [(q0 - 1) / 1, (q1 - 1) / 1, (q2 - 2) / 2] for q2, q1, q0 in itertools.product(range(4), range(2), range(3))
    ]
    assert fsq.code(torch.arange(24)).tolist() == by_hand


@pytest.mark.parametrize("level", [2, 3, 5, 8])
def test_every_level_is_reached_and_no_other(level: int) -> None:
    fsq = FSQ([level])
    code = fsq(torch.linspace(-9, 9, 20001)[:, None])
    assert code.unique().tolist() == pytest.approx([(q - level // 2) / (level // 2) for q in range(level)])


def test_rounding_follows_the_formula() -> None:
    latent = 0.7
    reach = 7 * 1.001 / 2
    bounded = math.tanh(latent + math.atanh(0.5 / reach)) * reach - 0.5
    assert FSQ([8])(torch.tensor([[latent]])).item() == round(bounded) / 4


def test_the_gradient_is_that_of_the_bounded_value() -> None:
    latent = torch.tensor([[0.3, -0.2]], dtype=torch.float32, requires_grad=True)
    FSQ([8, 5])(latent).sum().backward()
    reach = 7 * 1.001 / 2
    even = reach / math.cosh(0.3 + math.atanh(0.5 / reach)) ** 2 / 4
    odd = 2 * 1.001 / math.cosh(-0.2) ** 2 / 2
    assert latent.grad is not None
    assert latent.grad[0].tolist() == pytest.approx([even, odd], rel=1e-5)


def test_numbers_of_other_levels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0 to 39, got 0 to 40: these are codes of other levels than \[8, 5\]"):
        FSQ([8, 5]).code(torch.tensor([0, 40]))
    with pytest.raises(ValueError, match="at least 2 in every dimension, got"):
        FSQ([8, 1])
