"""What a pass over one clip costs, counted from shapes alone: multiply-adds (MAC) and memory.

Matrix products only: norms, softmax, activations and the fold of the pixel statistics are left out, as is customary. A
multiply-add is two floating-point operations.

``..._kept_bytes`` are what autograd keeps of the forward pass for the backward one, without parameters. They are
lower bounds: what is small, or depends on which kernel attends, is left out. ``width`` is the bytes of a number in
matrix products, 2 under bfloat16; the residual stream and the norms' inputs are float32 in either case.
"""

from dataclasses import astuple, dataclass

from tats_ray.nn.blocks import StackConfig
from tats_ray.nn.decoder import DecoderConfig
from tats_ray.nn.encoder import EncoderConfig

_FLOAT32 = 4


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
    encoder: EncoderConfig,
    decoder: DecoderConfig,
    *,
    visible: int,
    target: int,
    patch_pixels: int,
    outputs: int | None = None,
) -> AutoencoderMacs:
    """One clip through encoder and decoder.

    Args:
        encoder: Shape of the encoder.
        decoder: Shape of the decoder.
        visible: Tokens that the encoder sees. Only they are projected, so the clip's other tokens cost nothing here.
        target: Tokens that the decoder predicts.
        patch_pixels: Values of one patch.
        outputs: Values predicted for a target token; those of a patch by default.
    """
    return AutoencoderMacs(
        embed=visible * patch_pixels * encoder.embed_dim,
        encoder=_stack_macs(encoder, num_tokens=visible),
        bridge=visible * encoder.embed_dim * decoder.embed_dim,
        decoder=_stack_macs(decoder, num_tokens=visible + target, context=visible),
        head=target * decoder.embed_dim * (outputs or patch_pixels),
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


def block_kept_bytes(num_tokens: int, *, dim: int, width: int, mlp_ratio: float = 4.0, context: int = 0) -> int:
    """One transformer block.

    Inputs of both norms in float32; of qkv its input and its three outputs; of the projection, of both maps of the MLP
    and of the activation between them their inputs.
    """
    wanted = num_tokens - context
    narrow = num_tokens * 4 * dim + wanted * (2 * dim + 2 * int(dim * mlp_ratio))
    return _FLOAT32 * (num_tokens + wanted) * dim + width * narrow


def autoencoder_kept_bytes(
    encoder: EncoderConfig,
    decoder: DecoderConfig,
    *,
    visible: int,
    target: int,
    patch_pixels: int,
    width: int,
    outputs: int | None = None,
) -> int:
    """One clip through encoder, decoder and error; arguments as for :func:`autoencoder_macs`.

    With activation checkpointing of a stack, each of its blocks keeps its input only.
    """
    embed = width * visible * patch_pixels
    bridge = (_FLOAT32 + width) * visible * encoder.embed_dim
    head = (_FLOAT32 + width) * target * decoder.embed_dim
    gap = _FLOAT32 * target * (outputs or patch_pixels)
    stacks = _stack_kept_bytes(encoder, num_tokens=visible, width=width)
    stacks += _stack_kept_bytes(decoder, num_tokens=visible + target, context=visible, width=width)
    return embed + stacks + bridge + head + gap


def trajectory_block_kept_bytes(
    num_tokens: int, *, time: int, dim: int, num_heads: int, width: int, mlp_ratio: float = 4.0
) -> int:
    """One trajectory block; arguments as for :func:`trajectory_block_macs`.

    Beside the inputs of its maps: the paths, once frame by frame and once stacked, and each head's probe and average.
    """
    attention = dim * (4 + 2 * time + 2 + 2 * num_heads + 1) + time * num_heads
    narrow = attention + dim + 2 * int(dim * mlp_ratio)
    return num_tokens * (_FLOAT32 * 2 * dim + width * narrow)


def _stack_kept_bytes(config: StackConfig, *, num_tokens: int, width: int, context: int = 0) -> int:
    dim, mlp_ratio = config.embed_dim, config.mlp_ratio
    if config.activation_checkpointing:
        return _FLOAT32 * config.depth * num_tokens * dim
    block = block_kept_bytes(num_tokens, dim=dim, mlp_ratio=mlp_ratio, width=width)
    last = block_kept_bytes(num_tokens, dim=dim, mlp_ratio=mlp_ratio, context=context, width=width)
    return (config.depth - 1) * block + last


def _stack_macs(config: StackConfig, *, num_tokens: int, context: int = 0) -> int:
    dim, mlp_ratio = config.embed_dim, config.mlp_ratio
    block = block_macs(num_tokens, dim=dim, mlp_ratio=mlp_ratio)
    last = block_macs(num_tokens, dim=dim, mlp_ratio=mlp_ratio, context=context)
    return (config.depth - 1) * block + last
