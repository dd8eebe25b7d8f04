import pytest
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.nn import functional as F

from tats_ray.geometry import TokenGrid
from tats_ray.nn.patches import TubeletEmbed, denormalize, normalized_patches, patchify, take_tokens, unpatchify

GRID = TokenGrid(time=2, height=3, width=4)  # clips of 4 frames of 12 x 16 pixels: tubelets of 2 x 4 x 4


def clips(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (2, 4, 12, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_patchify_puts_each_pixel_where_the_orders_say() -> None:
    video = clips()
    patches = patchify(video, GRID)
    assert patches.shape == (2, 24, 96)
    assert patches.dtype == torch.uint8
    time, row, col = 1, 2, 3  # of the token
    frame, y, x, channel = 1, 2, 3, 1  # inside its tubelet
    token = (time * 3 + row) * 4 + col
    pixel = ((frame * 4 + y) * 4 + x) * 3 + channel
    assert (patches[:, token, pixel] == video[:, time * 2 + frame, row * 4 + y, col * 4 + x, channel]).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_unpatchify_inverts_patchify(dtype: torch.dtype) -> None:
    video = clips().to(dtype)
    restored = unpatchify(patchify(video, GRID), GRID, tubelet_size=2)
    assert restored.dtype == dtype
    assert torch.equal(restored, video)


def test_patchify_names_a_grid_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"video .* divisible .* got \(2, 4, 12, 16, 3\)"):
        patchify(clips(), TokenGrid(time=3, height=3, width=4))


@pytest.mark.parametrize(("grid", "tubelet_size"), [(TokenGrid(1, 3, 4), 2), (GRID, 4)])
def test_unpatchify_names_patches_that_do_not_fit(grid: TokenGrid, tubelet_size: int) -> None:
    with pytest.raises(ValueError, match=r"patches .* got \(2, 24, 96\)"):
        unpatchify(patchify(clips(), GRID), grid, tubelet_size=tubelet_size)


def test_take_tokens_keeps_the_order_of_the_indices() -> None:
    tokens = torch.arange(2 * 5 * 3).reshape(2, 5, 3)
    taken = take_tokens(tokens, torch.tensor([[4, 0], [1, 1]]))
    assert torch.equal(taken, torch.stack([tokens[0, [4, 0]], tokens[1, [1, 1]]]))


def test_normalized_patches_by_hand() -> None:
    # One channel of levels 0, 51, 102, 255: mean 102, squared distances 10404 + 2601 + 0 + 23409 = 36414, over 3.
    patches = torch.tensor([[[0, 51, 102, 255]]], dtype=torch.uint8)
    std = (36414 / 3) ** 0.5 / 255
    expected = torch.tensor([[[-0.4, -0.2, 0.0, 0.6]]], dtype=torch.float64) / (std + 1e-6)
    assert torch.allclose(normalized_patches(patches, channels=1).double(), expected, atol=1e-6)  # a few ulp of 1.5


def test_normalized_patches_treat_channels_apart_and_stay_in_pixel_order() -> None:
    patches = patchify(clips(), GRID)
    normalized = normalized_patches(patches).reshape(2, 24, 32, 3)
    # Sums of 32 float32 values near one: 1e-5 is some thirty ulp.
    assert torch.allclose(normalized.mean(2), torch.zeros(2, 24, 3), atol=1e-5)
    assert torch.allclose(normalized.std(2), torch.ones(2, 24, 3), atol=1e-4)  # epsilon takes 1e-6 / 0.29 away
    assert torch.equal(normalized.argmax(2), patches.reshape(2, 24, 32, 3).float().argmax(2))


@pytest.mark.parametrize("count", [512, 392, 32, 9])  # pixels that 16, 8, 16 and no more than 1 at a time divide
def test_normalized_patches_are_the_plain_ones_to_the_bit(count: int) -> None:
    patches = torch.randint(0, 256, (2, 4, count * 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    levels = patches.float().unflatten(-1, (-1, 3))
    centred = levels - levels.sum(-2, keepdim=True) / count
    deviation = (centred.square().sum(-2, keepdim=True) / (count - 1)).sqrt() + 255e-6
    for given in (patches, patches.float()):
        before = given.clone()
        assert torch.equal(normalized_patches(given), (centred / deviation).flatten(-2))
        assert torch.equal(given, before)


def test_all_levels_are_centred_at_128() -> None:
    embed = TubeletEmbed(3, 1)
    torch.nn.init.zeros_(embed.bias)
    levels = torch.arange(256, dtype=torch.uint8)[None, :, None].repeat(1, 1, 3)
    mean, std = torch.tensor(IMAGENET_DEFAULT_MEAN), torch.tensor(IMAGENET_DEFAULT_STD)
    expected = ((levels / 255 - mean) / std) @ embed.weight[0]
    assert torch.allclose(embed(levels).squeeze(-1), expected, atol=1e-5)


@pytest.mark.parametrize("count", [512, 392])  # 2 x 16 x 16 and 2 x 14 x 14: a power of two and not
def test_a_patch_of_one_colour_gives_zeros(count: int) -> None:
    patches = torch.tensor([3, 101, 254], dtype=torch.uint8).repeat(1, 1, count)
    assert normalized_patches(patches).count_nonzero() == 0


def test_denormalize_puts_the_statistics_back() -> None:
    patches = patchify(clips(), GRID)
    assert torch.allclose(denormalize(normalized_patches(patches), patches), patches / 255, atol=1e-6)
    assert denormalize(torch.full(patches.shape, 9.0), patches).max() == 1.0


def reference_tokens(embed: TubeletEmbed, video: torch.Tensor) -> torch.Tensor:
    """VideoMAE's tokeniser: normalise the clip, then Conv3d, in the dtype of the clip."""
    mean, std = (torch.tensor(values, dtype=video.dtype) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    normalized = ((video / 255 - mean) / std).permute(0, 4, 1, 2, 3)
    kernel = embed.weight.to(video.dtype).reshape(-1, 2, 4, 4, 3).permute(0, 4, 1, 2, 3)
    tokens = F.conv3d(normalized, kernel, embed.bias.to(video.dtype), stride=(2, 4, 4))
    return tokens.flatten(2).transpose(1, 2)


def embedding(dim: int = 32) -> TubeletEmbed:
    torch.manual_seed(0)
    embed = TubeletEmbed(96, dim)
    torch.nn.init.normal_(embed.bias)
    return embed


def test_tubelet_embed_is_a_convolution_on_normalised_pixels() -> None:
    embed = embedding()
    tokens = embed(patchify(clips(), GRID))
    # Sums of 96 products of order one in float32.
    assert torch.allclose(tokens.double(), reference_tokens(embed, clips().double()), atol=1e-5)


def test_tubelet_embed_trains_as_the_convolution_does() -> None:
    embed = embedding()
    coefficient = torch.randn(2, 24, 32)
    gradients = []
    for tokens in (embed(patchify(clips(), GRID)), reference_tokens(embed, clips().float())):
        gradients.append(torch.autograd.grad((tokens * coefficient).sum(), [embed.weight, embed.bias]))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)  # sums of 48 float32 products of order one


def test_tubelet_embed_in_bfloat16_is_no_less_accurate_than_normalised_pixels_would_be() -> None:
    embed = embedding()
    # Bright clips: the common brightness is what a careless fold multiplies the rounding by.
    video = clips() // 4 + 190
    truth = reference_tokens(embed, video.double())
    with torch.autocast("cpu", torch.bfloat16):
        tokens = embed(patchify(video, GRID))
        usual = reference_tokens(embed, video.float())
    assert tokens.dtype == torch.bfloat16
    assert (tokens - truth).square().mean() < 1.1 * (usual - truth).square().mean()


def test_tubelet_embed_folds_in_full_precision_under_autocast() -> None:
    embed, grey = embedding(), torch.full((1, 4, 12, 16, 3), 128, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = embed(patchify(grey, GRID))
    # Pixels of 128 enter as zeros, so a token is the folded bias, which is rounded once, at the end.
    assert torch.equal(tokens, reference_tokens(embed, grey.double()).bfloat16())


def test_tubelet_embed_refuses_pixels_that_were_touched() -> None:
    with pytest.raises(ValueError, match=r"patches must be raw uint8 .* torch\.float32"):
        embedding()(torch.zeros(1, 2, 96))


def test_tubelet_embed_needs_three_channels() -> None:
    with pytest.raises(ValueError, match="multiple of the 3 colour channels, got 32"):
        TubeletEmbed(32, 8)
