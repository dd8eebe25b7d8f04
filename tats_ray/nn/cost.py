"""What a forward pass costs, in multiply-adds (MAC) of one clip, counted from shapes alone.

Matrix products only: norms, softmax, activations and the fold of the pixel statistics are left out, as is customary. A
multiply-add is two floating-point operations.
"""

from dataclasses import astuple, dataclass

from tats_ray.nn.blocks import StackConfig
from tats_ray.nn.decoder import DecoderConfig
from tats_ray.nn.encoder import EncoderConfig


@dataclass(frozen=True)
class AutoencoderMacs:
    """Multiply-adds of one forward pass over one clip, part by part."""

    embed: int
    encoder: int
    bridge: int
    decoder: int
    head: int

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(astuple(self))


def forward_flops(macs: int) -> int:
    """Floating-point operations of a forward pass."""
    return 2 * macs


def training_flops(macs: int) -> int:
    """Floating-point operations of forward and backward, the backward counted as two forwards; nothing recomputed."""
    return 3 * forward_flops(macs)


def block_macs(num_tokens: int, *, dim: int, mlp_ratio: float = 4.0, context: int = 0) -> int:
    """One transformer block: qkv 3, projection 1, MLP 2 x mlp_ratio, each tokens x dim^2; scores and values.

    Of ``context`` tokens only keys and values are used; their queries are made with the others and dropped.
    """
    wanted = num_tokens - context
    scores = 2 * wanted * num_tokens * dim
    return num_tokens * 3 * dim * dim + scores + wanted * dim * (dim + 2 * int(dim * mlp_ratio))


def autoencoder_macs(
    encoder: EncoderConfig, decoder: DecoderConfig, *, visible: int, target: int, patch_pixels: int
) -> AutoencoderMacs:
    """One clip through encoder and decoder.

    Args:
        encoder: Shape of the encoder.
        decoder: Shape of the decoder.
        visible: Tokens that the encoder sees. Only they are projected, so the clip's other tokens cost nothing here.
        target: Tokens that the decoder predicts.
        patch_pixels: Values of one patch.
    """
    return AutoencoderMacs(
        embed=visible * patch_pixels * encoder.embed_dim,
        encoder=_stack_macs(encoder, num_tokens=visible),
        bridge=visible * encoder.embed_dim * decoder.embed_dim,
        decoder=_stack_macs(decoder, num_tokens=visible + target, context=visible),
        head=target * decoder.embed_dim * patch_pixels,
    )


def trajectory_block_macs(num_tokens: int, *, time: int, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> int:
    """One trajectory block in the order of products that ``TrajectoryAttention`` uses.

    Args:
        num_tokens: Tokens of the clip.
        time: Time slots among them.
        dim: Width of a token.
        num_heads: Attention heads; each has its own probe of the path, as wide as a token.
        mlp_ratio: Hidden width of the MLP over ``dim``.
    """
    maps = num_tokens * dim * dim * 7  # q, k, v; query, probe and value of the path; output
    spatial = 2 * num_tokens**2 * dim
    temporal = 2 * num_tokens * time * num_heads * dim
    return maps + spatial + temporal + 2 * num_tokens * dim * int(dim * mlp_ratio)


def _stack_macs(config: StackConfig, *, num_tokens: int, context: int = 0) -> int:
    dim, mlp_ratio = config.embed_dim, config.mlp_ratio
    block = block_macs(num_tokens, dim=dim, mlp_ratio=mlp_ratio)
    last = block_macs(num_tokens, dim=dim, mlp_ratio=mlp_ratio, context=context)
    return (config.depth - 1) * block + last
