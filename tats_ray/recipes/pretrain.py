"""Pre-training recipes: each docstring states what it is for and what it needs; the numbers are its experiment."""

from collections.abc import Callable

from tats_ray.config.run import TrainRun
from tats_ray.data.config import DataConfig
from tats_ray.masking.adamae import AdaMAEConfig
from tats_ray.masking.fixed import RandomConfig, TubeConfig
from tats_ray.masking.importance import ChangeConfig
from tats_ray.masking.important import ImportantConfig
from tats_ray.masking.tats import SwitchConfig, TATSConfig
from tats_ray.methods.build import MaskingConfig, ModelConfig
from tats_ray.nn.decoder import DecoderConfig
from tats_ray.nn.encoder import EncoderConfig, Size
from tats_ray.recipes.named import named
from tats_ray.rl.ppo import PPOConfig
from tats_ray.tracking.base import TrackingConfig
from tats_ray.training.config import TrainingConfig
from tats_ray.training.optim import OptimConfig


def tiny() -> TrainRun:
    """TATS at a size for two laptop cores: 16 frames of 32 pixels, 128 tokens; about two minutes on synthetic video."""
    return TrainRun(
        name="tiny",
        data=DataConfig(num_frames=16, frame_stride=1, crop_size=32, held_out=32, flip=True),
        model=ModelConfig(
            encoder=EncoderConfig.of_size("tiny"),
            decoder=DecoderConfig.of_size("tiny"),
            patch_size=8,
            positions="3d",  # with 1d, copying what does not move takes several times as many steps at this size
        ),
        masking=MaskingConfig(
            # Of 128 tokens, 0.9 would leave 12: most sites are then seen in no slot, and all of them are equally hard.
            mask_ratio=0.8,
            visible=TATSConfig(
                embed_dim=32,
                num_heads=2,
                # So small a sampler explains .08 to .15 in the end; .06 twice stands clear of the noise of 19 clips.
                switch=SwitchConfig(explained_variance=0.06, critic_by=0.6, policy_by=0.75),
                ppo=PPOConfig(temperature=0.5),
            ),
        ),
        optim=OptimConfig(base_learning_rate=4.8e-2, base_min_learning_rate=4.8e-3),
        training=TrainingConfig(
            steps=1600,
            global_batch=8,
            micro_batch=8,
            precision="fp32",
            validate_every=25,
            picture_every=400,
            checkpoint_every=200,
        ),
        tracking=TrackingConfig(log_every=20),
    )


def videomae_base() -> TrainRun:
    """VideoMAE's recipe, ViT-B, 16 x 224^2, tube masking at 0.9, 800 epochs (Tong et al. 2022); several GPUs, days."""
    return TrainRun(
        name="videomae-base",
        model=_vit("base"),
        masking=MaskingConfig(mask_ratio=0.9, visible=TubeConfig()),
        training=TrainingConfig(epochs=800, global_batch=1024, micro_batch=64),
    )


def adamae_base() -> TrainRun:
    """AdaMAE's recipe, ViT-B, 16 x 224^2, ratio 0.95, 800 epochs (Bandara et al. 2023); several GPUs, days."""
    return TrainRun(
        name="adamae-base",
        model=_vit("base"),
        masking=MaskingConfig(mask_ratio=0.95, visible=AdaMAEConfig()),
        training=TrainingConfig(epochs=800, global_batch=2048, micro_batch=32),
    )


def tats_base() -> TrainRun:
    """TATS, ViT-B, 16 x 224^2, ratio 0.9, VideoMAE's optimisation (Rai et al. 2025); several GPUs, days."""
    return TrainRun(
        name="tats-base",
        model=_vit("base"),
        masking=MaskingConfig(mask_ratio=0.9, visible=TATSConfig()),
        training=TrainingConfig(epochs=800, global_batch=1024, micro_batch=32),
    )


def tats_small() -> TrainRun:
    """TATS, ViT-S, 16 x 112^2 in patches of 8 pixels (1,568 tokens), 400 epochs; one GPU, hours on small data sets."""
    return TrainRun(
        name="tats-small",
        data=DataConfig(crop_size=112, frame_stride=2),
        model=_vit("small").model_copy(update={"patch_size": 8}),
        masking=MaskingConfig(mask_ratio=0.9, visible=TATSConfig()),
        training=TrainingConfig(epochs=400, global_batch=256, micro_batch=64),
    )


def lvmae() -> TrainRun:
    """LVMAE on 128 frames, ViT-B, tubes at 0.9, the decoder on 15 % of the tokens; many GPUs, days.

    Gundavarapu et al. 2024 (arXiv 2411.13683), but pixels are the target and frame difference ranks the tokens; so
    nothing has to be computed beforehand, and every crop and flip may be new.
    """
    return TrainRun(
        name="lvmae",
        data=LONG,
        model=_vit("base"),
        masking=MaskingConfig(
            mask_ratio=0.9, visible=TubeConfig(), target=ImportantConfig(mode="overlap"), importance=ChangeConfig()
        ),
        training=TrainingConfig(epochs=1600, global_batch=1024, micro_batch=8),
    )


def tats_long() -> TrainRun:
    """TATS on 128 frames in windows of 16, ViT-B, the decoder on 15 % of the tokens, all hidden; many GPUs, days."""
    return TrainRun(
        name="tats-long",
        data=LONG,
        model=_vit("base"),
        masking=MaskingConfig(
            mask_ratio=0.9,
            visible=TATSConfig(window_frames=16),
            target=ImportantConfig(mode="disjoint"),
            importance=ChangeConfig(),
        ),
        training=TrainingConfig(epochs=800, global_batch=1024, micro_batch=8),
    )


def lvmae_tiny() -> TrainRun:
    """``lvmae`` at a size for two laptop cores: 64 frames of 32 pixels, 512 tokens; minutes on synthetic video.

    Visible tokens are random, not tubes: 0.9 of 16 sites leaves one or two tubes, from which nothing about the other
    sites can be learnt.
    """
    small = _tiny_long(num_frames=64)
    masking = MaskingConfig(
        mask_ratio=0.9, visible=RandomConfig(), target=ImportantConfig(mode="overlap"), importance=ChangeConfig()
    )
    return small.model_copy(update={"name": "lvmae-tiny", "masking": masking})


def tats_long_tiny() -> TrainRun:
    """``tats-long`` at a size for two laptop cores: 64 frames of 32 pixels, 512 tokens; minutes on synthetic video."""
    small = _tiny_long(num_frames=64)
    sampler = tiny().masking.visible.model_copy(update={"window_frames": 16})
    masking = MaskingConfig(mask_ratio=0.8, visible=sampler, target=ImportantConfig(), importance=ChangeConfig())
    return small.model_copy(update={"name": "tats-long-tiny", "masking": masking})


LONG = DataConfig(num_frames=128, frame_stride=1, short_videos="loop")
"""128 successive frames, as the paper's figures of seconds and frames suggest; it does not say what short videos do."""

RECIPES: dict[str, Callable[[], TrainRun]] = {
    "tiny": tiny,
    "tats-small": tats_small,
    "tats-base": tats_base,
    "videomae-base": videomae_base,
    "adamae-base": adamae_base,
    "lvmae": lvmae,
    "lvmae-tiny": lvmae_tiny,
    "tats-long": tats_long,
    "tats-long-tiny": tats_long_tiny,
}


def recipe(name: str) -> TrainRun:
    """Return the run that goes by a name.

    Raises:
        ConfigError: There is none.
    """
    return named(name, RECIPES, what="recipe")()


def _vit(size: Size) -> ModelConfig:
    return ModelConfig(encoder=EncoderConfig.of_size(size), decoder=DecoderConfig.of_size(size))


def _tiny_long(*, num_frames: int) -> TrainRun:
    base = tiny()
    data = base.data.model_copy(update={"num_frames": num_frames, "short_videos": "loop"})
    return base.model_copy(update={"data": data})
