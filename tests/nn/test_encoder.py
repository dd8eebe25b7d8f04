import pytest
import torch
from pydantic import ValidationError
from timm.layers.drop import DropPath
from torch import nn

from tats_ray.nn.blocks import init_weights
from tats_ray.nn.decoder import DECODER_SIZES, DecoderConfig, MaskedDecoder
from tats_ray.nn.encoder import ENCODER_SIZES, EncoderConfig, VideoEncoder
from tats_ray.nn.positions import sincos_positions
from tats_ray.nn.trajectory import TrajectoryBlock

TOKENS, PIXELS = 20, 96
SMALL = EncoderConfig(embed_dim=16, depth=2, num_heads=2)


def encoder(**changes: object) -> VideoEncoder:
    torch.manual_seed(0)
    config = EncoderConfig.model_validate(SMALL.model_dump() | changes)
    return VideoEncoder(config, patch_pixels=PIXELS, positions=sincos_positions(TOKENS, config.embed_dim))


def patches(tokens: int = TOKENS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, tokens, PIXELS), dtype=torch.uint8, generator=generator)


IDX = torch.tensor([[3, 17, 0, 8], [19, 2, 5, 4]])


def test_features_follow_the_order_of_the_chosen_tokens() -> None:
    model, order = encoder(), torch.tensor([2, 0, 3, 1])
    # Another order of summation inside attention: float32 rounding of features of order one.
    assert torch.allclose(model(patches(), IDX[:, order]), model(patches(), IDX)[:, order], atol=1e-5)


def test_hidden_tokens_have_no_effect() -> None:
    model, seen = encoder(), patches()
    hidden = torch.ones(2, TOKENS, dtype=torch.bool).scatter(1, IDX, False)
    assert torch.equal(model(seen.masked_fill(hidden[..., None], 0), IDX), model(seen, IDX))


def test_a_token_knows_its_place() -> None:
    model, same = encoder(), patches()[:, :1].expand(-1, TOKENS, -1)
    features = model(same, torch.tensor([[0, 9], [0, 9]]))
    assert not torch.allclose(features[:, 0], features[:, 1], atol=1e-2)


def test_no_index_means_all_tokens_in_order() -> None:
    model, every = encoder(), torch.arange(TOKENS).expand(2, -1)
    assert torch.equal(model(patches()), model(patches(), every))


def test_features_are_normed() -> None:
    features = encoder()(patches(), IDX)
    assert torch.allclose(features.mean(-1), torch.zeros(2, 4), atol=1e-6)
    assert torch.allclose(features.var(-1, correction=0), torch.ones(2, 4), atol=1e-3)  # epsilon over the variance


def test_checkpointing_changes_no_number() -> None:
    gradients = []
    for activation_checkpointing in (False, True):
        model = encoder(activation_checkpointing=activation_checkpointing, drop_path_rate=0.5).train()
        torch.manual_seed(2)
        model(patches(), IDX).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


def test_drop_path_rises_linearly_and_is_off_in_evaluation() -> None:
    model = encoder(depth=3, drop_path_rate=0.4)
    rates = [layer.drop_prob for layer in model.modules() if isinstance(layer, DropPath)]
    assert rates == pytest.approx([0.0, 0.2, 0.4])
    assert torch.equal(model.eval()(patches(), IDX), model(patches(), IDX))


def test_positions_are_not_saved_so_another_clip_length_loads_the_same_weights() -> None:
    longer = VideoEncoder(SMALL, patch_pixels=PIXELS, positions=sincos_positions(2 * TOKENS, SMALL.embed_dim))
    longer.load_state_dict(encoder().state_dict())
    assert torch.equal(longer(patches().repeat(1, 2, 1), IDX), encoder()(patches(), IDX))


def test_a_clip_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="20 tokens this encoder was built for, got 19"):
        encoder()(patches(19), IDX)


@pytest.mark.parametrize(
    "module",
    [
        encoder(),
        MaskedDecoder(
            DecoderConfig(depth=1), encoder_dim=16, patch_pixels=PIXELS, positions=sincos_positions(TOKENS, 384)
        ),
        TrajectoryBlock(16, 2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_every_parameter_is_drawn(module: VideoEncoder | MaskedDecoder | TrajectoryBlock) -> None:
    for parameter in module.parameters():
        nn.init.constant_(parameter, torch.nan)
    module.reset_parameters()
    assert not [name for name, parameter in module.named_parameters() if parameter.isnan().any()]


def test_weights_are_drawn_as_in_videomae() -> None:
    linear, bound = nn.Linear(64, 192), (6 / (64 + 192)) ** 0.5
    init_weights(linear)
    assert linear.bias.count_nonzero() == 0
    assert 0.99 * bound < linear.weight.abs().max() <= bound
    # A uniform variable's standard deviation; 12,288 draws know it to about half a per cent.
    assert linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)


def test_sizes_are_those_of_the_vit_family() -> None:
    base = VideoEncoder(EncoderConfig.of_size("base"), patch_pixels=1536, positions=sincos_positions(8, 768))
    # 12 blocks of 12 d^2 + 13 d, norm, embedding with bias.
    assert sum(p.numel() for p in base.parameters()) == 12 * (12 * 768**2 + 13 * 768) + 2 * 768 + 1537 * 768
    assert list(ENCODER_SIZES) == list(DECODER_SIZES) == ["tiny", "small", "base", "large", "huge"]
    assert DecoderConfig.of_size("base") == DecoderConfig()
    assert EncoderConfig.of_size("base") == EncoderConfig()


@pytest.mark.parametrize("config", [EncoderConfig, DecoderConfig])
def test_bad_shapes_are_refused(config: type[EncoderConfig] | type[DecoderConfig]) -> None:
    with pytest.raises(ValidationError, match=r"embed_dim must be a multiple of num_heads, got 16 and 3; try .*=18"):
        config(embed_dim=16, depth=1, num_heads=3)
    with pytest.raises(ValidationError, match="extra"):
        config(width=16)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match="size must be one of tiny, small, base, large, huge, got 'giant'"):
        config.of_size("giant")  # pyright: ignore[reportArgumentType]
