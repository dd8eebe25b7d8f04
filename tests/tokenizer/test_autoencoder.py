"""Encoder and decoder: stems of blocks of pixels, the linear ways beside the convolutions, how far a code reaches."""

import pytest
import torch

from tats_ray.tokenizer.autoencoder import AutoencoderConfig, Decoder, Encoder, fold, unfold

SHAPES = {
    "MAGVIT's": AutoencoderConfig(base_channels=4, channel_multipliers=(1, 1, 1), residual_blocks=1),
    "stem of 4": AutoencoderConfig(base_channels=4, channel_multipliers=(1,), stem_halvings=2, residual_blocks=1),
    "stem of 2": AutoencoderConfig(base_channels=4, channel_multipliers=(1, 1), stem_halvings=1, residual_blocks=1),
    "no time": AutoencoderConfig(
        base_channels=4, channel_multipliers=(1, 1), stem_halvings=1, temporal_halvings=0, residual_blocks=1
    ),
    "time twice": AutoencoderConfig(
        base_channels=4, channel_multipliers=(1, 1), stem_halvings=1, temporal_halvings=2, residual_blocks=1
    ),
}


def silence(last: torch.nn.Conv3d) -> None:
    """Have the convolutions say nothing, so that the linear way is left."""
    with torch.no_grad():
        last.weight.zero_()
        assert last.bias is not None
        last.bias.zero_()


def last_of(part: Encoder | Decoder) -> torch.nn.Conv3d:
    """The last convolution."""
    return [module for module in part.head if isinstance(module, torch.nn.Conv3d)][-1]


def test_blocks_are_laid_into_channels_and_back() -> None:
    """Against loops: channel by channel, then by the frame, row and column in the block."""
    values = torch.arange(2 * 3 * 4 * 6 * 8).reshape(2, 3, 4, 6, 8)
    folded = fold(values, (2, 3, 4))
    assert folded.shape == (2, 3 * 24, 2, 2, 2)
    for channel in range(3):
        for time in range(4):
            for row in range(6):
                for column in range(8):
                    place = ((channel * 2 + time % 2) * 3 + row % 3) * 4 + column % 4
                    block = folded[:, place, time // 2, row // 3, column // 4]
                    assert torch.equal(block, values[:, channel, time, row, column])
    assert torch.equal(unfold(folded, (2, 3, 4)), values)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_goes_to_the_grid_and_back(name: str) -> None:
    config = SHAPES[name]
    assert config.patch_size == 4
    assert config.tubelet_size == {"no time": 1, "time twice": 4}.get(name, 2)
    if name == "no time":  # two halvings of height and width as well, by the stem and between the stages
        assert (config.stem, config.factor(0)) == ((1, 2, 2), (1, 2, 2))
    if name == "time twice":
        assert (config.stem, config.factor(0)) == ((2, 2, 2), (2, 2, 2))
    slices = 8 // config.tubelet_size
    latents = Encoder(config, dim=3)(torch.rand(2, 3, 8, 12, 8))
    assert latents.shape == (2, 3, slices, 3, 2)
    assert Decoder(config, dim=3, slices=slices)(latents).shape == (2, 3, 8, 12, 8)


@pytest.mark.parametrize("name", SHAPES)
def test_pixels_lead_straight_to_their_latent(name: str) -> None:
    """Beside the convolutions, a latent is a linear map of its own pixels, grey being zero, and of no others."""
    config = SHAPES[name]
    torch.manual_seed(0)
    encoder = Encoder(config, dim=3)
    silence(last_of(encoder))
    pixels = torch.full((1, 3, 8, 8, 8), 0.5)
    with torch.no_grad():
        encoder.straight.bias.zero_()
        assert (encoder(pixels) == 0).all()
        one = pixels.clone()
        one[..., config.tubelet_size :, 4:, :4] = torch.rand(3, 8 - config.tubelet_size, 4, 4)
        found = encoder(one)
        assert (found[:, :, 1:, 1, 0] != 0).all()
        assert found.count_nonzero() == found[:, :, 1:, 1, 0].numel()
        assert torch.allclose(encoder(2 * one - 0.5), 2 * found, atol=1e-5)  # twice as far from grey


def test_a_code_leads_straight_to_the_pixels_of_its_place_in_every_slice() -> None:
    """What was dropped is like what was kept before or after it at its place; the linear way reaches all of them."""
    config = SHAPES["stem of 4"]
    torch.manual_seed(0)
    decoder = Decoder(config, dim=3, slices=4)
    silence(last_of(decoder))
    for slot in (0, 3):
        codes = torch.zeros(1, 3, 4, 2, 2)
        codes[:, :, slot, 1, 0] = 1
        with torch.no_grad():
            changed = (decoder(codes) - 0.5).abs() > 0
        assert changed[..., 4:, :4].float().mean() > 0.99
        assert not changed[..., :4, :].any()
        assert not changed[..., 4:].any()


def test_the_convolutions_reach_over_the_whole_window() -> None:
    """The first one already, so that what follows may be as shallow as it likes."""
    config = SHAPES["stem of 4"]
    torch.manual_seed(0)
    decoder = Decoder(config, dim=3, slices=16)
    codes = torch.zeros(1, 3, 16, 1, 1, requires_grad=True)
    (reached,) = torch.autograd.grad(decoder.stem(codes)[:, :, -1].sum(), codes)
    assert (reached.abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", SHAPES)
def test_a_decoder_begins_at_grey(name: str) -> None:
    """Not exactly, or nothing would be learnt in the first step, but far closer than pixels differ."""
    config = SHAPES[name]
    torch.manual_seed(0)
    slices = 8 // config.tubelet_size
    pixels = Decoder(config, dim=6, slices=slices)(2 * torch.rand(2, 6, slices, 2, 2) - 1)
    assert 0 < float((pixels - 0.5).detach().abs().mean()) < 0.01


def test_time_is_halved_no_more_often_than_there_are_transitions() -> None:
    assert AutoencoderConfig(channel_multipliers=(1,), stem_halvings=1, temporal_halvings=1).tubelet_size == 2
    with pytest.raises(ValueError, match="at most the transitions between stages, got 2 and 1"):
        AutoencoderConfig(channel_multipliers=(1,), stem_halvings=1, temporal_halvings=2)
    with pytest.raises(ValueError, match="at most the transitions between stages, got 1 and 0"):
        AutoencoderConfig(channel_multipliers=(1,), temporal_halvings=1)
