"""Motion and lift by hand."""

import pytest
import torch

from tats_ray.geometry import TokenGrid
from tats_ray.masking.motion import frame_difference, lift

GRID = TokenGrid(time=2, height=1, width=2)


def test_frame_difference_by_hand() -> None:
    video = torch.zeros(1, 4, 2, 4, 3, dtype=torch.uint8)
    video[0, 1, :, :2] = 51  # the left half lights up in the second frame and goes dark in the third
    video[0, 3, 0, 2, 0] = 255  # one channel of one pixel of the right half lights up in the last
    # Left: |1-0| for frames 0 and 1, |2-1| for frame 2, none for 3. A patch holds 2 frames x 2 x 2 x 3 = 24 values.
    wanted = [51 / 255, 0.0, 51 / 255 / 2, 255 / 255 / 24]
    assert frame_difference(video, GRID).tolist() == [pytest.approx(wanted)]


def test_frame_difference_falls_and_rises_alike() -> None:
    video = torch.randint(0, 256, (1, 4, 2, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(frame_difference(255 - video, GRID), frame_difference(video, GRID))


def test_a_still_clip_does_not_move() -> None:
    assert frame_difference(torch.full((1, 4, 2, 4, 3), 200, dtype=torch.uint8), GRID).abs().max() == 0


def test_lift_by_hand() -> None:
    amount = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    probability = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]])
    lifted = lift(probability, amount)
    assert lifted[:2].tolist() == [2.0, 1.0]
    assert lifted[2].isnan()
