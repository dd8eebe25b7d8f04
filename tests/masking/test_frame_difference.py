"""Frame difference from patches, and distributions of a given lift."""

import pytest
import torch

from tats_ray.geometry import TokenGrid
from tats_ray.masking.frame_difference import FrameDifferenceConfig, FrameDifferenceScorer, tilted_log_prob
from tats_ray.masking.frame_difference import patch_frame_difference as from_patches
from tats_ray.masking.motion import frame_difference, lift
from tats_ray.nn.patches import patchify

GRID = TokenGrid(time=3, height=2, width=4)


def clips(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 6, 8, 16, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("slots", [6, 3, 1], ids=lambda slots: f"tubelets of {6 // slots}")
def test_both_forms_tell_what_a_slow_loop_tells(slots: int) -> None:
    grid, video = TokenGrid(time=slots, height=2, width=4), clips()
    frames = video.double() / 255
    change = torch.stack([(frames[:, max(at, 1)] - frames[:, max(at, 1) - 1]).abs() for at in range(6)], dim=1)
    wanted = patchify(change, grid).mean(2).float()  # means of the same numbers; only the order of the sums differs
    torch.testing.assert_close(frame_difference(video, grid), wanted, rtol=1e-5, atol=1e-7)
    found = from_patches(patchify(video, grid), grid, tubelet_size=6 // slots)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_the_mixture_by_hand() -> None:
    # p ~ amount is (1, 0, 0, 0) with lift 4; a lift of 2.5 takes half of it and half of the uniform quarter.
    found = tilted_log_prob(torch.tensor([[7.0, 0.0, 0.0, 0.0]]), lift=2.5).exp()
    torch.testing.assert_close(found, torch.tensor([[0.625, 0.125, 0.125, 0.125]]))


@pytest.mark.parametrize("wanted", [1.5, 2.0, 3.0])
def test_the_lift_is_as_asked(wanted: float) -> None:
    amount = torch.rand(5, 64, generator=torch.Generator().manual_seed(1)) ** 8  # few tokens hold most of it: lift 4.5
    probability = tilted_log_prob(amount, lift=wanted).exp()
    torch.testing.assert_close(probability.sum(1), torch.ones(5))
    torch.testing.assert_close(lift(probability, amount), torch.full((5,), wanted), rtol=1e-4, atol=0)


def test_motion_that_is_spread_evenly_is_drawn_as_strongly_as_it_can_be() -> None:
    amount = torch.tensor([[1.0, 3.0]])  # p ~ amount has lift 1.25
    found = tilted_log_prob(amount, lift=2.0).exp()
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.75]]), rtol=2e-3, atol=0)


def test_a_still_clip_is_drawn_uniformly() -> None:
    found = tilted_log_prob(torch.zeros(1, 8), lift=3.0).exp()
    torch.testing.assert_close(found, torch.full((1, 8), 1 / 8))


def test_tokens_without_motion_keep_finite_scores() -> None:
    still = torch.zeros(1, 6, 8, 16, 3, dtype=torch.uint8)
    still[0, 3, 0, 0, 0] = 255
    scorer = FrameDifferenceScorer(FrameDifferenceConfig(lift=50), grid=GRID, tubelet_size=2)
    assert scorer(patchify(still, GRID)).logits.isfinite().all()
