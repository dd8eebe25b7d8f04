import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tats_ray.geometry import TokenGrid
from tats_ray.nn.cost import (
    autoencoder_macs,
    block_macs,
    forward_flops,
    training_flops,
    trajectory_block_macs,
)
from tats_ray.nn.decoder import DecoderConfig, MaskedDecoder
from tats_ray.nn.encoder import EncoderConfig, VideoEncoder
from tats_ray.nn.positions import sincos_positions
from tats_ray.nn.trajectory import TrajectoryBlock

GIGA = 1e9


def autoencoder() -> tuple[VideoEncoder, MaskedDecoder]:
    encoder = VideoEncoder(
        EncoderConfig(embed_dim=48, depth=2, num_heads=3), patch_pixels=96, positions=sincos_positions(64, 48)
    )
    decoder = MaskedDecoder(
        DecoderConfig(embed_dim=32, depth=1, num_heads=2, mlp_ratio=3),
        encoder_dim=48,
        patch_pixels=96,
        positions=sincos_positions(64, 32),
    )
    return encoder, decoder


def autoencoder_flops(*, backward: bool) -> int:
    """What torch counts for one clip; products of attention are counted in its plain form."""
    encoder, decoder = autoencoder()
    patches = torch.zeros(1, 64, 96, dtype=torch.uint8)
    visible_idx, target_idx = torch.arange(24)[None], torch.arange(24, 64)[None]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss = decoder(encoder(patches, visible_idx), visible_idx, target_idx).sum()
        if backward:
            loss.backward()
    return counter.get_total_flops()


def test_autoencoder_equals_what_torch_counts() -> None:
    encoder, decoder = (
        EncoderConfig(embed_dim=48, depth=2, num_heads=3),
        DecoderConfig(embed_dim=32, depth=1, num_heads=2, mlp_ratio=3),
    )
    macs = autoencoder_macs(encoder, decoder, visible=24, target=40, patch_pixels=96)
    assert forward_flops(macs.total) == autoencoder_flops(backward=False)
    # Less by the gradient of the pixels, which nobody asks for.
    assert training_flops(macs.total) - 2 * macs.embed == autoencoder_flops(backward=True)


@pytest.mark.parametrize(("grid", "num_heads"), [(TokenGrid(4, 4, 4), 2), (TokenGrid(8, 3, 3), 4)])
def test_trajectory_block_equals_what_torch_counts(grid: TokenGrid, num_heads: int) -> None:
    block, x = TrajectoryBlock(32, num_heads, mlp_ratio=2), torch.randn(1, grid.num_tokens, 32)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        block(x, grid)
    macs = trajectory_block_macs(grid.num_tokens, time=grid.time, dim=32, num_heads=num_heads, mlp_ratio=2)
    assert forward_flops(macs) == counter.get_total_flops()


def test_vit_b_on_16_frames_at_90_per_cent() -> None:
    """The figures that the field quotes, in billions of multiply-adds."""
    macs = autoencoder_macs(EncoderConfig(), DecoderConfig(), visible=157, target=1411, patch_pixels=1536)
    assert macs.encoder / GIGA == pytest.approx(13.8, rel=0.02)
    # 18.7 when the last block serves the visible tokens too, which nobody reads.
    assert macs.decoder / GIGA == pytest.approx(18.7 - 0.43, rel=0.005)
    assert 4 * block_macs(1568, dim=384) / GIGA == pytest.approx(18.7, rel=0.005)
    assert macs.head / GIGA == pytest.approx(0.8, rel=0.05)  # quoted with one digit: 0.83
    # 1.85 when all 1,568 tokens are projected; here only the visible ones are.
    assert macs.embed / GIGA == pytest.approx(1.85 * 157 / 1568, rel=0.02)
    assert training_flops(macs.total) / GIGA == pytest.approx(211 - 6 * (1.85 * (1 - 157 / 1568) + 0.43), rel=0.01)


def test_vit_b_on_all_tokens_of_16_frames() -> None:
    whole = 12 * block_macs(1568, dim=768) + 1568 * 1536 * 768
    assert whole / GIGA == pytest.approx(180.4, rel=0.001)


def test_the_other_order_of_products_halves_trajectory_attention() -> None:
    # Attention alone at ViT-B's shape: 46.4 GFLOP as in the paper's order, 21.0 in ours.
    mlp = 8 * 1568 * 768**2
    attention = trajectory_block_macs(1568, time=8, dim=768, num_heads=12) - mlp
    assert forward_flops(attention) / GIGA == pytest.approx(21.0, rel=0.01)
