import math

import pytest
import torch

from tats_ray.geometry import TokenGrid
from tats_ray.nn.positions import PositionKind, position_table, sincos_positions


def test_positions_by_hand() -> None:
    table = sincos_positions(8, 4)
    assert table.dtype == torch.float32
    assert torch.equal(table[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    by_hand = [math.sin(7), math.cos(7), math.sin(7 / 100), math.cos(7 / 100)]
    assert torch.allclose(table[7], torch.tensor(by_hand), atol=1e-7)  # one rounding to float32


def test_a_shorter_table_is_a_prefix_of_a_longer_one() -> None:
    assert torch.equal(sincos_positions(50, 96), sincos_positions(1568, 96)[:50])


@pytest.mark.parametrize("dim", [0, 7])
def test_odd_widths_are_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=f"dim must be an even number .* got {dim}"):
        sincos_positions(4, dim)


def test_3d_positions_give_each_axis_channels_of_its_own() -> None:
    grid = TokenGrid(time=3, height=4, width=5)
    table = position_table("3d", grid, 32).unflatten(0, (3, 4, 5))
    part = 10  # a third of 32, made even
    assert table.shape[-1] == 32
    assert torch.equal(table[2, 1, 3, :part], sincos_positions(3, part)[2])
    assert torch.equal(table[2, 1, 3, part : 2 * part], sincos_positions(4, part)[1])
    assert torch.equal(table[2, 1, 3, 2 * part :], sincos_positions(5, 12)[3])


@pytest.mark.parametrize("kind", ["1d", "3d"])
def test_the_table_of_a_shorter_clip_is_a_prefix(kind: PositionKind) -> None:
    short, long = TokenGrid(time=8, height=4, width=4), TokenGrid(time=64, height=4, width=4)
    assert torch.equal(position_table(kind, short, 24), position_table(kind, long, 24)[: short.num_tokens])
