"""From configuration to method: the only place that knows all the variants."""

from typing import Annotated, Self, assert_never

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tats_ray.geometry import TokenGrid
from tats_ray.masking.adamae import AdaMAEConfig, AdaMAEScorer
from tats_ray.masking.all_hidden import AllHidden, AllHiddenConfig
from tats_ray.masking.embedding_distance import EmbeddingDistance, EmbeddingDistanceConfig
from tats_ray.masking.fixed import RandomConfig, TubeConfig
from tats_ray.masking.frame_difference import FrameDifferenceConfig, FrameDifferenceScorer
from tats_ray.masking.importance import Change, ChangeConfig, Importance, NoImportanceConfig
from tats_ray.masking.important import Important, ImportantConfig
from tats_ray.masking.oracle import OracleConfig, OracleScorer
from tats_ray.masking.planner import MaskPlanner, PolicyRule, RandomRule, TubeRule, VisibleRule, visible_count
from tats_ray.masking.pool import PoolConfig, PoolRest, PoolRestConfig, PoolRule
from tats_ray.masking.random_share import RandomShare, RandomShareConfig
from tats_ray.masking.running_cell import RunningCell, RunningCellConfig
from tats_ray.masking.targets import TargetRule
from tats_ray.masking.tats import TATSConfig, TATSScorer
from tats_ray.masking.tokenizer_importance import (
    CachedImportance,
    CachedImportanceConfig,
    TokenizerImportance,
    TokenizerImportanceConfig,
)
from tats_ray.masking.uniform_slices import UniformSlices, UniformSlicesConfig
from tats_ray.masking.windowed import window_grid
from tats_ray.methods.masked_autoencoder import Autoencoder, MaskedAutoencoding
from tats_ray.methods.ppo_update import PPOUpdate
from tats_ray.methods.sampler_updates import (
    FixedScores,
    JointPolicyGradient,
    NoUpdate,
    SamplerUpdate,
    ToldScores,
)
from tats_ray.methods.targets import PixelsConfig, PredictionConfig, prediction_of
from tats_ray.nn import cost
from tats_ray.nn.cost import autoencoder_macs, block_macs, trajectory_block_macs
from tats_ray.nn.decoder import DecoderConfig, MaskedDecoder
from tats_ray.nn.encoder import EncoderConfig, VideoEncoder
from tats_ray.nn.positions import PositionKind, position_table
from tats_ray.tokenizer.scorer import scorer_macs

CHANNELS = 3

VisibleConfig = Annotated[
    RandomConfig | TubeConfig | FrameDifferenceConfig | OracleConfig | PoolConfig | AdaMAEConfig | TATSConfig,
    Field(discriminator="kind"),
]
TargetConfig = Annotated[
    AllHiddenConfig | RunningCellConfig | UniformSlicesConfig | RandomShareConfig | ImportantConfig | PoolRestConfig,
    Field(discriminator="kind"),
]
ImportanceConfig = Annotated[
    NoImportanceConfig | ChangeConfig | EmbeddingDistanceConfig | CachedImportanceConfig | TokenizerImportanceConfig,
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
    prediction: PredictionConfig = PixelsConfig()
    """What the decoder predicts of a target token."""
    positions: PositionKind = "1d"
    """Fixed positions over the flattened grid as in VideoMAE (1d), or over time, rows and columns apart (3d)."""

    @property
    def patch_pixels(self) -> int:
        """Numbers in one flattened patch."""
        return self.tubelet_size * self.patch_size**2 * CHANNELS


class MaskingConfig(BaseModel):
    """Which tokens the encoder sees, and which of the others the decoder predicts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    mask_ratio: float = Field(default=0.9, gt=0, lt=1)
    """Share of a clip's tokens that is hidden from the encoder."""
    visible: VisibleConfig = TATSConfig()
    """Strategy by which the visible tokens are chosen."""
    target: TargetConfig = AllHiddenConfig()
    """Rule by which the decoder's targets are chosen."""
    importance: ImportanceConfig = NoImportanceConfig()
    """What ranks the tokens, for the kinds of target and visible that ask for it."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        visible, target, importance = self.visible, self.target, self.importance
        if isinstance(target, PoolRestConfig) and not isinstance(visible, PoolConfig):
            raise ValueError(
                f"masking.target.kind=pool-rest takes what the visible tokens leave of their pool, and "
                f"masking.visible.kind={visible.kind} has none; take masking.visible.kind=pool, or another target"
            )
        learns = isinstance(visible, AdaMAEConfig | TATSConfig)
        if learns and isinstance(target, ImportantConfig) and not target.random_share:
            raise ValueError(
                f"masking.target.random_share must be above 0 where masking.visible.kind={visible.kind} learns from "
                f"the errors: without it the less important hidden tokens are never predicted, and the sampler hears "
                f"of the others alone; try 0.05"
            )
        asking = [config.kind for config in (visible, target) if isinstance(config, _RANKED)]
        if asking and isinstance(importance, NoImportanceConfig):
            raise ValueError(
                f"masking.importance.kind must say what ranks the tokens for {' and '.join(asking)}, got none; try "
                f"frame-difference"
            )
        if not asking and not isinstance(importance, NoImportanceConfig):
            raise ValueError(
                f"masking.importance.kind={importance.kind} has no effect with masking.visible.kind={visible.kind} and "
                f"masking.target.kind={target.kind}, which do not ask for it; set it to none"
            )
        return self


_RANKED = (PoolConfig, PoolRestConfig, ImportantConfig)


def build_method(
    model: ModelConfig, masking: MaskingConfig, *, grid: TokenGrid, total_steps: int, global_batch: int, seed: int
) -> MaskedAutoencoding:
    """Build the modules, initialised from torch's global generator, and the method around them.

    Raises:
        ValueError: A combination of settings that has no meaning; the message names the setting.
    """
    prediction = prediction_of(model.prediction)
    encoder = VideoEncoder(
        model.encoder,
        patch_pixels=model.patch_pixels,
        positions=position_table(model.positions, grid, model.encoder.embed_dim),
    )
    decoder = MaskedDecoder(
        model.decoder,
        encoder_dim=model.encoder.embed_dim,
        patch_pixels=prediction.outputs(model.patch_pixels),
        positions=position_table(model.positions, grid, model.decoder.embed_dim),
    )
    update: SamplerUpdate
    match masking.visible:
        case RandomConfig() | TubeConfig() | PoolConfig():
            update = NoUpdate()
        case FrameDifferenceConfig() as config:
            update = FixedScores(FrameDifferenceScorer(config, grid=grid, tubelet_size=model.tubelet_size))
        case OracleConfig() as config:
            update = ToldScores(OracleScorer(config))
        case AdaMAEConfig() as config:
            scorer = AdaMAEScorer(config, grid=grid, dim=model.encoder.embed_dim)
            update = JointPolicyGradient(scorer, encoder.embed, loss_weight=config.loss_weight)
        case TATSConfig() as config:
            window = window_grid(grid, window_frames=config.window_frames, tubelet_size=model.tubelet_size)
            scorer = TATSScorer(config, grid=window, patch_pixels=model.patch_pixels)
            update = PPOUpdate(scorer, config, total_steps=total_steps, seed=seed)
        case never:
            assert_never(never)
    return MaskedAutoencoding(
        Autoencoder(encoder, decoder),
        mask_planner(masking, grid),
        update,
        importance=_importance(model, masking, grid=grid, encoder=encoder),
        prediction=prediction,
        grid=grid,
        global_batch=global_batch,
        seed=seed,
    )


def mask_planner(masking: MaskingConfig, grid: TokenGrid) -> MaskPlanner:
    """Return both rules as one.

    Raises:
        ValueError: A ratio or a share leaves nothing, or more than there is; the message names the setting.
    """
    rule = _visible_rule(masking, grid)
    return MaskPlanner(rule, grid, _target_rule(masking.target, grid, rule))


def _visible_rule(masking: MaskingConfig, grid: TokenGrid) -> VisibleRule:
    match masking.visible:
        case RandomConfig():
            return RandomRule(grid, masking.mask_ratio)
        case TubeConfig():
            return TubeRule(grid, masking.mask_ratio)
        case PoolConfig() as config:
            return PoolRule(config, grid=grid, count=visible_count(grid, masking.mask_ratio))
        case FrameDifferenceConfig() | OracleConfig() | AdaMAEConfig() | TATSConfig():
            return PolicyRule(grid, masking.mask_ratio)
        case never:
            assert_never(never)


def _target_rule(target: TargetConfig, grid: TokenGrid, rule: VisibleRule) -> TargetRule:
    match target:
        case AllHiddenConfig():
            return AllHidden(grid=grid, visible=rule.count)
        case RunningCellConfig():
            return RunningCell(target, grid=grid, visible=rule.count)
        case UniformSlicesConfig():
            return UniformSlices(target, grid=grid, visible=rule.count)
        case RandomShareConfig():
            return RandomShare(target, grid=grid, visible=rule.count)
        case ImportantConfig():
            return Important(target, grid=grid, visible=rule.count)
        case PoolRestConfig():
            assert isinstance(rule, PoolRule)  # MaskingConfig has seen to it
            return PoolRest(rule)
        case never:
            assert_never(never)


def _importance(
    model: ModelConfig, masking: MaskingConfig, *, grid: TokenGrid, encoder: VideoEncoder
) -> Importance | None:
    match masking.importance:
        case NoImportanceConfig():
            return None
        case ChangeConfig():
            return Change(grid=grid, tubelet_size=model.tubelet_size)
        case EmbeddingDistanceConfig():
            return EmbeddingDistance(encoder.embed, grid=grid)
        case CachedImportanceConfig():
            return CachedImportance(grid=grid)
        case TokenizerImportanceConfig():
            return TokenizerImportance(grid=grid)
        case never:
            assert_never(never)


def truth_grid(masking: MaskingConfig, grid: TokenGrid) -> TokenGrid | None:
    """Return the grid on which training clips must come with their ground truth; None where nothing asks for it."""
    return grid if isinstance(masking.visible, OracleConfig) else None


def training_flops(model: ModelConfig, masking: MaskingConfig, *, grid: TokenGrid) -> dict[str, int]:
    """Return the counted FLOPs of one clip's training step, by part: autoencoder, sampler and importance.

    A forward and backward pass counts three forward passes. TATS's draw is one forward pass more, and each clip takes
    part in ``update_epochs`` passes of the sampler. Importance has no backward pass.
    """
    planner = mask_planner(masking, grid)
    tokens, visible = grid.num_tokens, planner.rule.count
    autoencoder = autoencoder_macs(
        model.encoder,
        model.decoder,
        visible=visible,
        target=planner.target.count,
        patch_pixels=model.patch_pixels,
        outputs=prediction_of(model.prediction).outputs(model.patch_pixels),
    )
    match masking.visible:
        case RandomConfig() | TubeConfig() | FrameDifferenceConfig() | OracleConfig() | PoolConfig():
            sampler = 0
        case AdaMAEConfig():
            dim = model.encoder.embed_dim
            embed = (tokens - visible) * model.patch_pixels * dim  # all tokens are embedded, not the visible ones only
            sampler = cost.training_flops(block_macs(tokens, dim=dim) + embed)
        case TATSConfig(embed_dim=dim, num_heads=heads, ppo=ppo) as config:
            window = window_grid(grid, window_frames=config.window_frames, tubelet_size=model.tubelet_size)
            block = trajectory_block_macs(window.num_tokens, time=window.time, dim=dim, num_heads=heads)
            forward = tokens * model.patch_pixels * dim + grid.time // window.time * block
            sampler = cost.forward_flops(forward) + ppo.update_epochs * cost.training_flops(forward)
        case never:
            assert_never(never)
    return {
        "autoencoder": cost.training_flops(autoencoder.total),
        "sampler": sampler,
        "importance": cost.forward_flops(_importance_macs(model, masking, tokens=tokens)),
    }


def _importance_macs(model: ModelConfig, masking: MaskingConfig, *, tokens: int) -> int:
    match masking.importance:
        case EmbeddingDistanceConfig():
            return tokens * model.patch_pixels * model.encoder.embed_dim
        case TokenizerImportanceConfig(scorer_widths=(_, _) as widths):
            size = {"tubelet_size": model.tubelet_size, "patch_size": model.patch_size}  # those of a latent, as well
            return scorer_macs(widths, **size, num_tokens=tokens)
        case NoImportanceConfig() | ChangeConfig() | CachedImportanceConfig() | TokenizerImportanceConfig():
            return 0
        case never:
            assert_never(never)


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
    planner, tokens = mask_planner(masking, grid), grid.num_tokens
    autoencoder = cost.autoencoder_kept_bytes(
        model.encoder,
        model.decoder,
        visible=planner.rule.count,
        target=planner.target.count,
        patch_pixels=model.patch_pixels,
        outputs=prediction_of(model.prediction).outputs(model.patch_pixels),
        width=width,
    )
    embed = width * tokens * model.patch_pixels
    match masking.visible:
        case RandomConfig() | TubeConfig() | FrameDifferenceConfig() | OracleConfig() | PoolConfig():
            sampler = 0
        case AdaMAEConfig():
            dim = model.encoder.embed_dim
            sampler = embed + cost.block_kept_bytes(tokens, dim=dim, width=width)
        case TATSConfig(embed_dim=dim, num_heads=heads) as config:
            window = window_grid(grid, window_frames=config.window_frames, tubelet_size=model.tubelet_size)
            # A sum over tokens of what each keeps, which its window's slots decide.
            sampler = embed + cost.trajectory_block_kept_bytes(
                tokens, time=window.time, dim=dim, num_heads=heads, width=width
            )
        case never:
            assert_never(never)
    return {"autoencoder": autoencoder, "sampler": sampler}
