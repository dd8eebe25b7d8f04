"""Recipes that train the adaptive tokenizer."""

from collections.abc import Callable

from tats_ray.config.tokenizer_run import TokenizerRun
from tats_ray.data.config import DataConfig
from tats_ray.recipes.named import named
from tats_ray.tokenizer.model import TokenizerConfig
from tats_ray.tracking.base import TrackingConfig
from tats_ray.training.config import TrainingConfig
from tats_ray.training.optim import OptimConfig


def tokenizer_tiny() -> TokenizerRun:
    """A tokenizer for two laptop cores: windows of 16 frames of 32 pixels, 2 x 8 x 8 pixels a code; minutes."""
    return TokenizerRun(
        name="tokenizer-tiny",
        data=DataConfig(num_frames=16, frame_stride=1, crop_size=32, held_out=16, flip=True),
        tokenizer=TokenizerConfig(
            base_channels=32,
            channel_multipliers=(1, 2),
            stem_halvings=2,
            residual_blocks=1,
            scorer_widths=(16, 32),
            samples=100,
        ),
        optim=OptimConfig(base_learning_rate=0.16, base_min_learning_rate=3.2e-3, weight_decay=0, betas=(0.9, 0.99)),
        training=TrainingConfig(
            steps=800,
            global_batch=8,
            micro_batch=8,
            precision="fp32",
            validate_every=100,
            probe_every=None,
            picture_every=400,
            checkpoint_every=400,
        ),
        tracking=TrackingConfig(log_every=20),
    )


def tokenizer_base() -> TokenizerRun:
    """LVMAE's tokenizer by MAGVIT's recipe, 16 x 224^2, 18 bits for 2 x 16 x 16 pixels, pixel loss; several GPUs."""
    return TokenizerRun(
        name="tokenizer-base",
        training=TrainingConfig(epochs=300, global_batch=128, micro_batch=4, probe_every=None, validate_every=500),
    )


TOKENIZER_RECIPES: dict[str, Callable[[], TokenizerRun]] = {
    "tokenizer-tiny": tokenizer_tiny,
    "tokenizer-base": tokenizer_base,
}


def tokenizer_recipe(name: str) -> TokenizerRun:
    """Return the tokenizer's run that goes by a name.

    Raises:
        ConfigError: There is none.
    """
    return named(name, TOKENIZER_RECIPES, what="recipe")()
