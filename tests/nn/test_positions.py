import math

import pytest
import torch

from tats_ray.nn.positions import sincos_positions


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
