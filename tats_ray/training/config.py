"""Settings of the training loop."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from tats_ray.training.stepper import Precision


class TrainingConfig(BaseModel):
    """Length, batch and cadences of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training videos; exactly one of epochs and steps is given."""
    steps: int | None = Field(default=None, ge=1)
    """Global batches; exactly one of epochs and steps is given."""
    global_batch: int = Field(default=256, ge=1)
    """Clips of one step over all workers, whatever their number."""
    micro_batch: int = Field(default=32, ge=1)
    """Clips a worker holds on its device at once; gradients of several are accumulated."""
    precision: Precision = "bf16"
    """Autocast of the forward passes; losses, policies and parameters are float32 in either case."""
    compile: StrictBool = False
    """Compile the autoencoder with torch.compile."""
    validate_every: int = Field(default=100, ge=1)
    """Steps between measurements on held-out clips, which also decide when the sampler is switched on."""
    probe_every: int | None = Field(default=500, ge=1)
    """Steps between ridge probes on held-out clips, where all videos have labels; null for none."""
    probe_clips: int = Field(default=256, ge=2)
    """Training videos from whose middle clips the ridge probe learns; all workers together keep them in memory."""
    picture_every: int | None = Field(default=500, ge=1)
    """Steps between pictures of a held-out clip; null writes none at all, for videos that nobody should see."""
    checkpoint_every: int = Field(default=200, ge=1)
    """Steps between checkpoints; one is taken at the next step at which the sampler's rollout buffer is empty."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept."""
    keep_after: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Steps after which the next checkpoint is taken at once and never removed."""
    keep_best: str | None = None
    """Metric of the validation, such as validation/random_mask_error, whose best checkpoint is kept as well."""
    keep_best_mode: Literal["min", "max"] = "min"
    """Whether small or large values of keep_best are good."""
