"""The configurations of all components composed into one run, and what follows from them.

``Run`` is what every training has; ``TrainRun`` pre-trains an encoder, ``TokenizerRun`` (``config/tokenizer_run.py``) a
tokenizer. The loop, its launchers and its records know a ``Run`` alone.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from tats_ray.copies import path_of
from tats_ray.data.config import DataConfig
from tats_ray.geometry import TokenGrid
from tats_ray.masking.tokenizer_importance import TokenizerImportanceConfig
from tats_ray.methods.base import Method
from tats_ray.methods.build import (
    MaskingConfig,
    ModelConfig,
    build_method,
    mask_planner,
    training_flops,
    truth_grid,
)
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.tracking.base import TrackingConfig
from tats_ray.training.config import TrainingConfig
from tats_ray.training.optim import OptimConfig

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Of a run: a folder's name everywhere."""


class ClusterConfig(BaseModel):
    """How many processes, on what."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    num_workers: int = Field(default=1, ge=0)
    """Ray Train workers; 0 trains in this process without Ray."""
    min_workers: int | None = Field(default=None, ge=1)
    """Workers that are enough: Ray trains with as many as fit, up to num_workers, and grows or shrinks as machines come
    and go; null for num_workers, always."""
    use_gpu: StrictBool | None = None
    """One GPU for each worker; null takes one when the machine or cluster has enough."""
    cpus_per_worker: int = Field(default=1, ge=1)
    """CPUs that each training worker reserves; decoding takes what is left."""
    decode_cpus: int | None = Field(default=None, ge=1)
    """CPUs that decoding may take over the whole cluster; null for all that are left."""
    clips_per_block: int | None = Field(default=None, ge=1)
    """Clips that one decode task makes; null for as many as make 64 MiB, 48 at most, and fewer where a machine's object
    store is small for its CPUs."""
    max_failures: int = Field(default=3, ge=0)
    """Times that lost workers are replaced and the run goes on from its last checkpoint."""


class Run(BaseModel, ABC):
    """What every training run has."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    shaped_by: ClassVar[tuple[str, ...]]
    """Settings of the model's shape."""

    name: str = Field(default="tats", pattern=NAME)
    """Results lie under this name; an interrupted run of the same name is resumed."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Fixes initialisation, order of the clips, crops and draws."""
    results: str | None = None
    """Folder or URI (s3://bucket/results) for checkpoints, pictures and default MLflow store; null takes TATS_RESULTS,
    else ~/tats_ray_results."""
    init: str | None = None
    """Run folder or checkpoint that the run starts from; ``init_takes`` says with what."""
    init_takes: Literal["weights", "training"] = "weights"
    """Weights alone, of the same modules, to start at step 0; or all of the training, optimisers, sampler and step, to
    go on from there with other settings: a longer or shorter schedule, say."""
    data: DataConfig = DataConfig()
    """Which videos, and how clips are taken from them."""
    optim: OptimConfig = OptimConfig()
    """How the model learns; of a pre-training all but a sampler of its own optimiser."""
    training: TrainingConfig = TrainingConfig(epochs=800)
    """Length, batch and cadences."""
    cluster: ClusterConfig = ClusterConfig()
    """How many processes, on what."""
    tracking: TrackingConfig = TrackingConfig()
    """Where the run is recorded."""

    @property
    def root(self) -> Path:
        """Folder of this machine for ``results``, which is set: itself, or the copy of a URI (``copies.py``)."""
        assert self.results is not None
        return path_of(self.results)

    @property
    @abstractmethod
    def grid(self) -> TokenGrid:
        """How a clip is cut into tokens."""

    @property
    def truth_grid(self) -> TokenGrid | None:
        """The grid on which training clips must come with their ground truth; None where nothing asks for it."""
        return None

    @abstractmethod
    def build_method(self, *, total_steps: int) -> Method:
        """Build the modules, initialised from torch's global generator, and the method around them.

        Raises:
            ValueError: A combination of settings that has no meaning; the message names the setting.
        """

    @abstractmethod
    def flops(self) -> Mapping[str, int]:
        """Return the counted FLOPs of one clip's training step by part, of all that takes part at any stage."""

    def flops_at(self, stage: str) -> float:
        """Return the counted FLOPs of one clip's training step at a stage of the method."""
        return sum(self.flops().values())

    @abstractmethod
    def facts(self, method: Method) -> Mapping[str, str]:
        """Return counts of tokens and the like, of the method that the run builds."""

    def settled(self, absolute: Callable[[str, str], str]) -> Self:
        """Return the run with its own files' paths made absolute by ``absolute(path, knob)``, and checked.

        Raises:
            ValueError: A file is missing.
        """
        return self

    def total_steps(self, num_samples: int) -> int:
        """Return the global batches of the run, given the number of training samples."""
        if self.training.steps is not None:
            return self.training.steps
        assert self.training.epochs is not None
        return math.ceil(self.training.epochs * num_samples / self.training.global_batch)

    @property
    def worker_counts(self) -> range:
        """Numbers of workers that a run may have; 1 without Ray."""
        most = max(1, self.cluster.num_workers)
        return range(self.cluster.min_workers or most, most + 1)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        parts = {name: getattr(self, name) for name in ("data", *self.shaped_by)}
        try:
            _build_on_meta(type(self), self.training.global_batch, **parts)
        except (OverflowError, RuntimeError, TypeError) as error:  # torch's words for more than it can count
            raise ValueError(
                f"no model of these sizes can be built ({error}); the largest of them is probably mistyped: see "
                f"{', '.join(('data', *type(self).shaped_by))}"
            ) from error
        if (self.training.epochs is None) == (self.training.steps is None):
            raise ValueError(
                f"exactly one of training.epochs and training.steps must be given, got "
                f"epochs={self.training.epochs} and steps={self.training.steps}; set the other to null"
            )
        self._check_shares()
        return self

    def _check_shares(self) -> None:
        counts = self.worker_counts
        if not counts:
            raise ValueError(
                f"cluster.min_workers must be at most cluster.num_workers, got {self.cluster.min_workers} and "
                f"{self.cluster.num_workers}"
            )
        step = math.lcm(*counts)
        batch, views = self.training.global_batch, self.data.views_per_decode
        if batch % step:
            each = f"each number from cluster.min_workers={counts[0]} to " if len(counts) > 1 else ""
            raise ValueError(
                f"training.global_batch must be a multiple of {each}cluster.num_workers, got {batch} and {counts[-1]}; "
                f"try training.global_batch={math.ceil(batch / step) * step}"
            )
        for share in (batch // workers for workers in counts):
            if share % views:
                raise ValueError(
                    f"data.views_per_decode must divide the clips of one worker in one step, got {views} and {share}; "
                    f"change it or training.global_batch"
                )


class TrainRun(Run):
    """A complete pre-training run."""

    shaped_by = ("model", "masking")

    model: ModelConfig = ModelConfig()
    """Shape of the autoencoder."""
    masking: MaskingConfig = MaskingConfig()
    """Which tokens the encoder sees, and which of the others the decoder predicts."""

    @property
    def grid(self) -> TokenGrid:
        """How a clip is cut into tokens."""
        return TokenGrid.of(
            num_frames=self.data.num_frames,
            crop_size=self.data.crop_size,
            tubelet_size=self.model.tubelet_size,
            patch_size=self.model.patch_size,
        )

    @property
    def truth_grid(self) -> TokenGrid | None:
        """The grid on which training clips must come with their ground truth; None where nothing asks for it."""
        return truth_grid(self.masking, self.grid)

    def settled(self, absolute: Callable[[str, str], str]) -> Self:
        """Return the run with the path of the tokenizer that ranks its tokens, if one does, made absolute."""
        importance = self.masking.importance
        if not isinstance(importance, TokenizerImportanceConfig) or importance.checkpoint is None:
            return self
        place = absolute(importance.checkpoint, "masking.importance.checkpoint")
        importance = importance.model_copy(update={"checkpoint": place})
        return self.model_copy(update={"masking": self.masking.model_copy(update={"importance": importance})})

    def build_method(self, *, total_steps: int) -> MaskedAutoencoding:
        """Build the masked autoencoder and its sampler."""
        return build_method(
            self.model,
            self.masking,
            grid=self.grid,
            total_steps=total_steps,
            global_batch=self.training.global_batch,
            seed=self.seed,
        )

    def flops(self) -> Mapping[str, int]:
        """Return the counted FLOPs of one clip's training step, by part."""
        return training_flops(self.model, self.masking, grid=self.grid)

    def flops_at(self, stage: str) -> float:
        """Return the counted FLOPs of one clip's training step: TATS's sampler takes no part in the first stage."""
        flops = self.flops()
        return flops["autoencoder"] + flops["importance"] + (0 if stage == "random" else flops["sampler"])

    def facts(self, method: Method) -> Mapping[str, str]:
        """Return counts of tokens, and the parameters of the encoder alone."""
        assert isinstance(method, MaskedAutoencoding)
        grid, planner = self.grid, mask_planner(self.masking, self.grid)
        encoder = sum(p.numel() for p in method.autoencoder.encoder.parameters())
        return {
            "tokens a clip": f"{grid.num_tokens:,} ({grid.time} x {grid.height} x {grid.width})",
            "visible tokens": f"{planner.rule.count:,}",
            "target tokens": f"{planner.target.count:,}",
            "parameters, encoder": f"{encoder:,}",
        }


@lru_cache(maxsize=256)
def _build_on_meta(kind: type[Run], global_batch: int, **parts: Any) -> None:
    """Have each part check the settings that it is built from; nothing is allocated.

    What passed is remembered: the runs of a sweep or a comparison, hundreds of them, differ in little of it.
    """
    training = TrainingConfig.model_construct(global_batch=global_batch)
    with torch.device("meta"):
        kind.model_construct(training=training, **parts).build_method(total_steps=1)
