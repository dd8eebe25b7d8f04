import pytest
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from tats_ray.geometry import TokenGrid
from tats_ray.nn.decoder import DecoderConfig, MaskedDecoder
from tats_ray.nn.encoder import EncoderConfig, VideoEncoder
from tats_ray.nn.patches import normalized_patches, patchify, take_tokens
from tats_ray.nn.positions import sincos_positions

GRID = TokenGrid(time=2, height=4, width=4)
PIXELS = 2 * 8 * 8 * 3
VISIBLE_IDX = torch.tensor([[1, 9, 20], [0, 5, 31]])


def decoder() -> MaskedDecoder:
    torch.manual_seed(0)
    config = DecoderConfig(embed_dim=16, depth=2, num_heads=2)
    return MaskedDecoder(
        config, encoder_dim=24, patch_pixels=PIXELS, positions=sincos_positions(GRID.num_tokens, config.embed_dim)
    )


def test_predictions_follow_the_order_of_the_targets() -> None:
    model, visible, target_idx = decoder(), torch.randn(2, 3, 24), torch.tensor([[2, 3, 4, 7], [30, 8, 1, 2]])
    order = torch.tensor([3, 1, 0, 2])
    prediction = model(visible, VISIBLE_IDX, target_idx)
    assert prediction.shape == (2, 4, PIXELS)
    # Another order of summation inside attention: float32 rounding.
    assert torch.allclose(model(visible, VISIBLE_IDX, target_idx[:, order]), prediction[:, order], atol=1e-5)


def test_visible_tokens_may_come_in_any_order() -> None:
    model, visible, target_idx = decoder(), torch.randn(2, 3, 24), torch.tensor([[2, 3], [8, 1]])
    order = torch.tensor([2, 0, 1])
    shuffled = model(visible[:, order], VISIBLE_IDX[:, order], target_idx)
    assert torch.allclose(shuffled, model(visible, VISIBLE_IDX, target_idx), atol=1e-5)  # rounding, as above


def videomae() -> VideoMAEForPreTraining:
    """The independent truth: VideoMAE of transformers, tiny and with random weights."""
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=32,
        patch_size=8,
        num_frames=4,
        tubelet_size=2,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        layer_norm_eps=1e-6,
        use_mean_pooling=False,
        norm_pix_loss=True,
    )
    model = VideoMAEForPreTraining(config).eval()
    # transformers leaves its decoder's last norm at torch's default; VideoMAE's is 1e-6 everywhere.
    model.decoder.norm.eps = 1e-6
    for parameter in model.parameters():  # biases and norms too, which start at values that hide mistakes
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def converted_stack(theirs: dict[str, Tensor], *, source: str, target: str) -> dict[str, Tensor]:
    """Weights of VideoMAE's layers under ``source`` as those of a BlockStack under ``target``."""
    ours = {}
    names = {
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
    }
    for i in range(2):
        before, after = f"{source}.{i}", f"{target}.{i}"
        part = f"{before}.attention.attention"
        query, key, value = (theirs[f"{part}.{name}.weight"] for name in ("query", "key", "value"))
        query_bias, value_bias = (theirs[f"{part}.{name}.bias"] for name in ("query", "value"))
        ours[f"{after}.attn.qkv.weight"] = torch.cat([query, key, value])
        ours[f"{after}.attn.qkv.bias"] = torch.cat([query_bias, torch.zeros_like(query_bias), value_bias])
        for old, new in names.items():
            for kind in ("weight", "bias"):
                ours[f"{after}.{new}.{kind}"] = theirs[f"{before}.{old}.{kind}"]
    return ours


def converted(model: VideoMAEForPreTraining) -> tuple[VideoEncoder, MaskedDecoder]:
    theirs = model.state_dict()
    encoder = VideoEncoder(
        EncoderConfig(embed_dim=24, depth=2, num_heads=3),
        patch_pixels=PIXELS,
        positions=sincos_positions(GRID.num_tokens, 24),
    )
    kernel = theirs["videomae.embeddings.patch_embeddings.projection.weight"]
    encoder.load_state_dict(
        {
            "embed.weight": kernel.permute(0, 2, 3, 4, 1).flatten(1),
            "embed.bias": theirs["videomae.embeddings.patch_embeddings.projection.bias"],
            "norm.weight": theirs["videomae.layernorm.weight"],
            "norm.bias": theirs["videomae.layernorm.bias"],
        }
        | converted_stack(theirs, source="videomae.encoder.layer", target="stack.blocks")
    )
    ours = decoder()
    ours.load_state_dict(
        {
            "bridge.weight": theirs["encoder_to_decoder.weight"],
            "mask_token": theirs["mask_token"].flatten(),
            "norm.weight": theirs["decoder.norm.weight"],
            "norm.bias": theirs["decoder.norm.bias"],
            "head.weight": theirs["decoder.head.weight"],
            "head.bias": theirs["decoder.head.bias"],
        }
        | converted_stack(theirs, source="decoder.decoder_layers", target="stack.blocks")
    )
    return encoder, ours


@pytest.mark.parametrize("num_visible", [3, 16])
def test_encoder_and_decoder_equal_videomae(num_visible: int) -> None:
    theirs = videomae()
    encoder, ours = converted(theirs)
    generator = torch.Generator().manual_seed(3)
    video = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8, generator=generator)
    order = torch.rand(2, GRID.num_tokens, generator=generator).argsort(1)
    visible_idx, target_idx = order[:, :num_visible].sort(1).values, order[:, num_visible:].sort(1).values
    hidden = torch.ones(2, GRID.num_tokens, dtype=torch.bool).scatter(1, visible_idx, False)
    normalized = (video / 255 - torch.tensor(IMAGENET_DEFAULT_MEAN)) / torch.tensor(IMAGENET_DEFAULT_STD)
    with torch.no_grad():
        expected = theirs(pixel_values=normalized.permute(0, 1, 4, 2, 3), bool_masked_pos=hidden)
        patches = patchify(video, GRID)
        prediction = ours(encoder(patches, visible_idx), visible_idx, target_idx)
    # Both in float32 with sums in another order; predictions are of order one.
    assert torch.allclose(prediction, expected.logits, atol=1e-5)
    loss = (prediction - normalized_patches(take_tokens(patches, target_idx))).square().mean()
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
