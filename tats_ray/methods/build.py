"""From configuration to method: the only place that knows all the variants."""

from typing import Annotated, assert_never

from pydantic import BaseModel, ConfigDict, Field

from tats_ray.geometry import TokenGrid
from tats_ray.masking.adamae import AdaMAEConfig, AdaMAEScorer
from tats_ray.masking.fixed import RandomConfig, TubeConfig
from tats_ray.masking.frame_difference import FrameDifferenceConfig, FrameDifferenceScorer
from tats_ray.masking.oracle import OracleConfig, OracleScorer
from tats_ray.masking.planner import MaskPlanner, PolicyRule, RandomRule, TubeRule, VisibleRule
from tats_ray.masking.tats import TATSConfig, TATSScorer
from tats_ray.methods.masked_autoencoder import Autoencoder, MaskedAutoencoding
from tats_ray.methods.ppo_update import PPOUpdate
from tats_ray.methods.sampler_updates import (
    FixedScores,
    JointPolicyGradient,
    NoUpdate,
    SamplerUpdate,
    ToldScores,
)
from tats_ray.nn import cost
from tats_ray.nn.cost import autoencoder_macs, block_macs, trajectory_block_macs
from tats_ray.nn.decoder import DecoderConfig, MaskedDecoder
from tats_ray.nn.encoder import EncoderConfig, VideoEncoder
from tats_ray.nn.positions import PositionKind, position_table

CHANNELS = 3

VisibleConfig = Annotated[
    RandomConfig | TubeConfig | FrameDifferenceConfig | OracleConfig | AdaMAEConfig | TATSConfig,
    Field(discriminator="kind"),
]


class ModelConfig(BaseModel):
    """Shape of the autoencoder."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    encoder: EncoderConfig = EncoderConfig.of_size("base")
    """The encoder, which is what pre-training is for."""
    decoder: DecoderConfig = DecoderConfig.of_size("base")
    """The decoder, dropped after pre-training."""
    tubelet_size: int = Field(default=2, ge=1)
    """Frames of one token."""
    patch_size: int = Field(default=16, ge=1)
    """Pixels of a token's side."""
    positions: PositionKind = "1d"
    """Fixed positions over the flattened grid as in VideoMAE (1d), or over time, rows and columns apart (3d)."""

    @property
    def patch_pixels(self) -> int:
        """Numbers in one flattened patch."""
        return self.tubelet_size * self.patch_size**2 * CHANNELS


class MaskingConfig(BaseModel):
    """Which tokens the encoder sees."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    mask_ratio: float = Field(default=0.9, gt=0, lt=1)
    """Share of a clip's tokens that is hidden from the encoder."""
    visible: VisibleConfig = TATSConfig()
    """Strategy by which the visible tokens are chosen."""


def build_method(
    model: ModelConfig, masking: MaskingConfig, *, grid: TokenGrid, total_steps: int, global_batch: int, seed: int
) -> MaskedAutoencoding:
    """Build the modules, initialised from torch's global generator, and the method around them.

    Raises:
        ValueError: A combination of settings that has no meaning; the message names the setting.
    """
    encoder = VideoEncoder(
        model.encoder,
        patch_pixels=model.patch_pixels,
        positions=position_table(model.positions, grid, model.encoder.embed_dim),
    )
    decoder = MaskedDecoder(
        model.decoder,
        encoder_dim=model.encoder.embed_dim,
        patch_pixels=model.patch_pixels,
        positions=position_table(model.positions, grid, model.decoder.embed_dim),
    )
    update: SamplerUpdate
    match masking.visible:
        case RandomConfig() | TubeConfig():
            update = NoUpdate()
        case FrameDifferenceConfig() as config:
            update = FixedScores(FrameDifferenceScorer(config, grid=grid, tubelet_size=model.tubelet_size))
        case OracleConfig() as config:
            update = ToldScores(OracleScorer(config))
        case AdaMAEConfig() as config:
            scorer = AdaMAEScorer(config, grid=grid, dim=model.encoder.embed_dim)
            update = JointPolicyGradient(scorer, encoder.embed, loss_weight=config.loss_weight)
        case TATSConfig() as config:
            scorer = TATSScorer(config, grid=grid, patch_pixels=model.patch_pixels)
            update = PPOUpdate(scorer, config, total_steps=total_steps, seed=seed)
        case never:
            assert_never(never)
    return MaskedAutoencoding(
        Autoencoder(encoder, decoder),
        MaskPlanner(visible_rule(masking, grid), grid),
        update,
        grid=grid,
        global_batch=global_batch,
        seed=seed,
    )


def visible_rule(masking: MaskingConfig, grid: TokenGrid) -> VisibleRule:
    """Return the rule that draws the visible tokens.

    Raises:
        ValueError: The ratio leaves no visible or no hidden token.
    """
    match masking.visible:
        case RandomConfig():
            return RandomRule(grid, masking.mask_ratio)
        case TubeConfig():
            return TubeRule(grid, masking.mask_ratio)
        case FrameDifferenceConfig() | OracleConfig() | AdaMAEConfig() | TATSConfig():
            return PolicyRule(grid, masking.mask_ratio)
        case never:
            assert_never(never)


def truth_grid(masking: MaskingConfig, grid: TokenGrid) -> TokenGrid | None:
    """Return the grid on which training clips must come with their ground truth; None where nothing asks for it."""
    return grid if isinstance(masking.visible, OracleConfig) else None


def training_flops(model: ModelConfig, masking: MaskingConfig, *, grid: TokenGrid) -> dict[str, int]:
    """Return the counted FLOPs of one clip's training step, by part: autoencoder and sampler.

    A forward and backward pass counts three forward passes. TATS's draw is one forward pass more, and each clip takes
    part in ``update_epochs`` passes of the sampler.
    """
    tokens, visible = grid.num_tokens, visible_rule(masking, grid).count
    autoencoder = autoencoder_macs(
        model.encoder, model.decoder, visible=visible, target=tokens - visible, patch_pixels=model.patch_pixels
    )
    match masking.visible:
        case RandomConfig() | TubeConfig() | FrameDifferenceConfig() | OracleConfig():
            sampler = 0
        case AdaMAEConfig():
            dim = model.encoder.embed_dim
            embed = (tokens - visible) * model.patch_pixels * dim  # all tokens are embedded, not the visible ones only
            sampler = cost.training_flops(block_macs(tokens, dim=dim) + embed)
        case TATSConfig(embed_dim=dim, num_heads=heads, ppo=ppo):
            embed = tokens * model.patch_pixels * dim
            forward = embed + trajectory_block_macs(tokens, time=grid.time, dim=dim, num_heads=heads)
            sampler = cost.forward_flops(forward) + ppo.update_epochs * cost.training_flops(forward)
        case never:
            assert_never(never)
    return {"autoencoder": cost.training_flops(autoencoder.total), "sampler": sampler}


def training_kept_bytes(model: ModelConfig, masking: MaskingConfig, *, grid: TokenGrid, width: int) -> dict[str, int]:
    """Return a lower bound of what autograd keeps of one clip, by part: autoencoder and sampler.

    AdaMAE's sampler is kept together with the autoencoder; TATS's is kept while it learns, when the autoencoder's is
    gone.

    Args:
        model: Shape of the autoencoder.
        masking: Which tokens it sees.
        grid: How a clip is cut.
        width: Bytes of a number in matrix products: 4, or 2 under bfloat16.
    """
    tokens, visible = grid.num_tokens, visible_rule(masking, grid).count
    autoencoder = cost.autoencoder_kept_bytes(
        model.encoder,
        model.decoder,
        visible=visible,
        target=tokens - visible,
        patch_pixels=model.patch_pixels,
        width=width,
    )
    embed = width * tokens * model.patch_pixels
    match masking.visible:
        case RandomConfig() | TubeConfig() | FrameDifferenceConfig() | OracleConfig():
            sampler = 0
        case AdaMAEConfig():
            dim = model.encoder.embed_dim
            sampler = embed + cost.block_kept_bytes(tokens, dim=dim, width=width)
        case TATSConfig(embed_dim=dim, num_heads=heads):
            sampler = embed + cost.trajectory_block_kept_bytes(
                tokens, time=grid.time, dim=dim, num_heads=heads, width=width
            )
        case never:
            assert_never(never)
    return {"autoencoder": autoencoder, "sampler": sampler}
