"""What an error is worth to the sampler, by hand numbers and against the error of raw pixels."""

import pytest
import torch

from tats_ray.methods.reconstruction import token_error
from tats_ray.nn.patches import normalized_patches
from tats_ray.rl.reward import RewardConfig, reward_error


def grey(levels: list[int]) -> torch.Tensor:
    """One token of grey pixels, ``[1, 1, 3 * pixels]``."""
    return torch.tensor(levels, dtype=torch.uint8).repeat_interleave(3)[None, None]


def test_a_normalised_error_stays_as_it_is() -> None:
    error = torch.tensor([[0.7]])
    assert reward_error(error, grey([0, 255]), RewardConfig()) is error


def test_a_raw_error_by_hand() -> None:
    """Pixels 0 and 1 have the unbiased variance 1/2; 51 and 102 of 255, that of 0.2 and 0.4, which is 0.02."""
    config = RewardConfig(error="raw")
    assert reward_error(torch.tensor([[0.6]]), grey([0, 255]), config).item() == pytest.approx(0.3)
    assert reward_error(torch.tensor([[0.6]]), grey([51, 102]), config).item() == pytest.approx(0.012)


def test_a_noise_weighted_error_by_hand() -> None:
    """Variance 0.02 against noise of variance 0.01: two thirds of it are signal; a flat patch has none."""
    config = RewardConfig(error="noise-weighted", noise=0.1)
    assert reward_error(torch.tensor([[0.6]]), grey([51, 102]), config).item() == pytest.approx(0.4)
    assert reward_error(torch.tensor([[0.6]]), grey([51, 51]), config).item() == 0


def test_the_raw_error_is_that_of_pixels() -> None:
    """Against its definition: the prediction taken back to pixels, for grey patches, whose channels are alike."""
    noise = torch.Generator().manual_seed(0)
    patches = torch.randint(0, 256, (2, 3, 8), dtype=torch.uint8, generator=noise).repeat_interleave(3, dim=-1)
    prediction = torch.randn(2, 3, 8, generator=noise).repeat_interleave(3, dim=-1)
    pixels = patches.float() / 255
    mean, deviation = pixels.mean(-1, keepdim=True), pixels[..., ::3].std(-1, keepdim=True)
    wanted = (prediction * deviation + mean - pixels).square().mean(-1)
    error = token_error(prediction, normalized_patches(patches))
    torch.testing.assert_close(reward_error(error, patches, RewardConfig(error="raw")), wanted, rtol=1e-4, atol=1e-6)
