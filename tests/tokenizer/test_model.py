"""The adaptive tokenizer: shapes, what is dropped, what the scorer sees and learns, windows, and its hash."""

import pytest
import torch
from torch import Tensor, nn

from tats_ray.geometry import TokenGrid
from tats_ray.tokenizer.autoencoder import AutoencoderConfig, Encoder
from tats_ray.tokenizer.model import AdaptiveTokenizer, TokenizerConfig, as_pixels
from tats_ray.tokenizer.scorer import TokenScorer, check_importance, with_first_copied
from tats_ray.tokenizer.topk import top_k

SMALL = TokenizerConfig(
    base_channels=4,
    channel_multipliers=(1, 2, 2),
    residual_blocks=1,
    levels=(8, 5, 4),
    scorer_widths=(4, 6),
    samples=16,
)
GRID = TokenGrid.of(num_frames=8, crop_size=16, tubelet_size=2, patch_size=4)


def made(config: TokenizerConfig = SMALL, *, seed: int = 0) -> AdaptiveTokenizer:
    torch.manual_seed(seed)
    return AdaptiveTokenizer(config, grid=GRID)


def clips(frames: int = 8, *, batch: int = 2, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (batch, frames, 16, 16, 3), dtype=torch.uint8, generator=generator)


def moving_square(frames: int = 8) -> tuple[Tensor, Tensor]:
    """A clip of a square that moves by four pixels every second frame, and which tokens it enters or leaves."""
    video = torch.zeros(1, frames, 16, 16, 3, dtype=torch.uint8)
    changed = torch.zeros(frames // 2, 4, 4, dtype=torch.bool)
    for slot in range(frames // 2):
        video[:, 2 * slot : 2 * slot + 2, 4:8, 4 * slot : 4 * slot + 4] = 255
        if slot:
            changed[slot, 1, slot - 1 : slot + 1] = True
    return video, changed.flatten()


def test_full_size_gives_a_latent_for_two_frames_of_sixteen_pixels() -> None:
    config = TokenizerConfig()
    assert (config.tubelet_size, config.patch_size) == (2, 16)
    with torch.device("meta"):
        latents = Encoder(config, dim=6)(torch.zeros(1, 3, 16, 224, 224))
        grid = TokenGrid.of(num_frames=16, crop_size=224, tubelet_size=2, patch_size=16)
        assert AdaptiveTokenizer(config, grid=grid).keep == 768
    assert latents.shape == (1, 6, 8, 14, 14)


def test_tokens_are_in_the_order_of_the_grid() -> None:
    """Each latent comes from its own place of the encoder's map, and goes back to it."""
    tokenizer = made()
    pixels = as_pixels(clips(batch=1))
    with torch.no_grad():
        latents, mapped = tokenizer.latents(pixels)[0], tokenizer.encoder(pixels)[0]
        for token, latent in enumerate(latents):
            slot, place = divmod(token, GRID.slot_tokens)
            assert torch.equal(latent, mapped[:, slot, place // GRID.width, place % GRID.width])
        assert torch.equal(tokenizer.decode(latents[None]), tokenizer.decoder(mapped[None]))


@pytest.mark.parametrize("sigma", [None, 0.1])
def test_exactly_the_others_are_zero_and_the_first_slice_is_intact(sigma: float | None) -> None:
    tokenizer = made()
    video = clips()
    result = tokenizer(video, sigma=sigma)
    assert result.pixels.shape == (2, 3, 8, 16, 16)
    assert tokenizer.keep == round(0.49 * 64)
    assert result.kept.sum(1).tolist() == [tokenizer.keep] * 2
    assert (result.kept[:, : GRID.slot_tokens] == 1).all()
    whole = tokenizer.quantizer(tokenizer.latents(as_pixels(video)))
    assert torch.equal(result.codes, whole * result.kept.unsqueeze(2))


@pytest.mark.parametrize("sigma", [None, 0.1])
def test_the_reconstruction_teaches_the_scorer_through_the_mask_alone(sigma: float | None) -> None:
    tokenizer = made()
    video = clips()
    (tokenizer(video, sigma=sigma).pixels - as_pixels(video)).square().mean().backward()
    gradients = [parameter.grad for parameter in tokenizer.scorer.parameters()]
    if sigma is None:
        assert gradients == [None] * len(gradients)
    else:
        assert all(grad is not None and grad.abs().max() > 0 and grad.isfinite().all() for grad in gradients[:-1])
    assert all(parameter.grad is not None for parameter in tokenizer.encoder.parameters())
    assert all(parameter.grad is not None for parameter in tokenizer.decoder.parameters())


def test_a_still_clip_has_equal_scores_and_ties_go_to_the_first() -> None:
    video = clips(batch=1)[:, :1].expand(1, 8, 16, 16, 3)
    with torch.no_grad():
        scores = made().scorer(as_pixels(video))
    assert scores.flatten().tolist() == pytest.approx([1e-3] * 48)  # sqrt(1e-6)
    result = made()(video.contiguous())
    assert result.kept[0].nonzero().flatten().tolist() == list(range(31))


def test_the_best_scored_tokens_cover_a_moving_square() -> None:
    """Whatever the weights: nothing else changes."""
    video, changed = moving_square()
    for seed in range(3):
        config = SMALL.model_copy(update={"scorer_widths": (32, 64)})
        scores = made(config, seed=seed).importance(video)[0, GRID.slot_tokens :]
        best = top_k(scores[None], 2 * int(changed.sum()))[0].bool()
        assert best[changed[GRID.slot_tokens :]].all()


def test_backwards_in_time_scores_move_by_one_slice() -> None:
    """With kernels that are symmetric in time; d[t] lies between the slices t - 1 and t."""
    scorer = TokenScorer(widths=(4, 6), tubelet_size=2, patch_size=4)
    with torch.no_grad():
        for layer in (scorer.features, scorer.project):
            layer.weight += layer.weight.flip(2)
        pixels = as_pixels(clips())
        forward, backward = scorer(pixels), scorer(pixels.flip(2))
    assert torch.allclose(backward, forward.flip(1), atol=1e-6)
    copied = with_first_copied(forward).unflatten(1, (4, 16))
    assert torch.equal(copied[:, 0], copied[:, 1])


def test_distances_are_those_of_the_formula() -> None:
    """Features of one layer that hands pixels on and one that adds up a tubelet's values."""
    scorer = TokenScorer(widths=(3, 3), tubelet_size=2, patch_size=1)
    nn.init.dirac_(scorer.features.weight)
    with torch.no_grad():
        scorer.project.weight.zero_()
        for channel in range(3):
            scorer.project.weight[channel, channel, 1:3] = 1  # the tubelet's own two frames of the four it sees
        pixels = torch.rand(1, 3, 4, 2, 2)
        found = scorer(pixels)
    hidden = nn.functional.gelu(pixels + scorer.features.bias.detach()[:, None, None, None])
    slices = hidden[:, :, 0::2] + hidden[:, :, 1::2]
    wanted = ((slices[:, :, 1] - slices[:, :, 0]).square().sum(1) + 1e-6).sqrt()
    assert torch.allclose(found[:, 0], wanted, atol=1e-6)


def test_two_windows_are_two_calls() -> None:
    tokenizer, video = made(), clips(16)
    for method in (tokenizer.codes, tokenizer.importance):
        both = torch.cat([method(video[:, :8]), method(video[:, 8:])], 1)
        assert torch.equal(method(video), both)
    codes = tokenizer.quantizer.code(tokenizer.codes(video[:, :8]))
    assert torch.equal(codes, tokenizer.quantizer(tokenizer.latents(as_pixels(video[:, :8]))).detach())


def test_the_hash_is_of_weights_and_settings() -> None:
    tokenizer = made()
    twin = made(seed=5)
    assert twin.content_hash() != tokenizer.content_hash()
    twin.load_state_dict(tokenizer.state_dict())
    assert twin.content_hash() == tokenizer.content_hash()
    assert made(SMALL.model_copy(update={"levels": (8, 4, 5)})).content_hash() != tokenizer.content_hash()
    with torch.no_grad():
        next(twin.scorer.parameters()).view(-1)[0] += 1e-6
    assert twin.content_hash() != tokenizer.content_hash()


def test_what_does_not_fit_is_refused() -> None:
    tokenizer = made()
    with pytest.raises(ValueError, match="window of 8 frames must divide the clip, got 12 frames; take 16"):
        tokenizer.codes(clips(12))
    with pytest.raises(ValueError, match="window of 8 frames must divide the clip, got 4 frames; take 8"):
        tokenizer.importance(clips(4))
    with pytest.raises(ValueError, match="must have the 16x16 pixels"):
        tokenizer.codes(torch.zeros(1, 8, 32, 32, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"must keep more than the first slice.*16 of 64.*raise it above 0.25"):
        made(SMALL.model_copy(update={"keep_ratio": 0.25}))
    with pytest.raises(ValueError, match=r"one latent slice.*data.num_frames=4 at least"):
        AdaptiveTokenizer(SMALL, grid=TokenGrid(time=1, height=4, width=4))
    with pytest.raises(ValueError, match="temporal_halvings must be at most the transitions"):
        AutoencoderConfig(channel_multipliers=(1, 2), temporal_halvings=2)


def test_importance_that_is_no_number_is_refused() -> None:
    tokenizer = made()
    with torch.no_grad():
        tokenizer.scorer.project.bias[0] = torch.nan
    with pytest.raises(ValueError, match="importance must be finite, 64 of 64 scores are not; the tokenizer"):
        tokenizer.importance(clips(batch=1))
    with pytest.raises(ValueError, match="a score for each of 64 tokens, got 32"):
        check_importance(torch.zeros(32), GRID)
