"""Building blocks in torch: patches, positions, encoder, decoder, trajectory attention and their cost."""

from tats_ray.nn.decoder import DECODER_SIZES, DecoderConfig, MaskedDecoder
from tats_ray.nn.encoder import ENCODER_SIZES, EncoderConfig, VideoEncoder
from tats_ray.nn.patches import (
    TubeletEmbed,
    denormalize,
    normalized_patches,
    patchify,
    take_tokens,
    unpatchify,
)
from tats_ray.nn.positions import sincos_positions
from tats_ray.nn.trajectory import TrajectoryAttention, TrajectoryBlock

__all__ = [
    "DECODER_SIZES",
    "ENCODER_SIZES",
    "DecoderConfig",
    "EncoderConfig",
    "MaskedDecoder",
    "TrajectoryAttention",
    "TrajectoryBlock",
    "TubeletEmbed",
    "VideoEncoder",
    "denormalize",
    "normalized_patches",
    "patchify",
    "sincos_positions",
    "take_tokens",
    "unpatchify",
]
