"""The training loop, the same for every method: fetch, step, log, validate, save."""

import csv
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from tats_ray.data.loader import StepShare
from tats_ray.methods.averages import Averages
from tats_ray.methods.base import HeldOut, Method
from tats_ray.tracking.base import Tracker
from tats_ray.tracking.progress import ProgressState
from tats_ray.training.context import WorkerContext
from tats_ray.training.pictures import write_pictures
from tats_ray.training.state import save_checkpoint
from tats_ray.training.stepper import GradientStepper, Precision

GRACE_CLIPS = 1000
"""The share of failed clips is taken of at least this many, so that an early failure does not end a run."""


class DataLossError(Exception):
    """More clips than allowed could not be decoded, or there are none left."""


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
    picture_every: int = Field(default=500, ge=1)
    """Steps between pictures."""
    checkpoint_every: int = Field(default=200, ge=1)
    """Steps between checkpoints; one is taken at the next step at which the sampler's rollout buffer is empty."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept."""


@dataclass
class LoopState:
    """Where a run stands, beside parameters and optimisers."""

    step: int = 0
    clips: int = 0
    failed_clips: int = 0
    skipped_steps: int = 0
    events: dict[str, float] = field(default_factory=dict)  # the switch-on of the sampler, say
    measured: dict[str, float] = field(default_factory=dict)  # the last validation


@dataclass(frozen=True)
class Job:
    """All that the loop works with."""

    method: Method
    stepper: GradientStepper
    context: WorkerContext
    tracker: Tracker
    config: TrainingConfig
    held_out: HeldOut
    total_steps: int
    seed: int
    log_every: int
    max_failed_share: float
    folder: Path


def train(job: Job, state: LoopState, shares: Iterable[StepShare]) -> LoopState:
    """Train from ``state.step`` to the end; ``shares`` begins with the share of that step.

    Raises:
        NotFiniteError: Too many steps had a gradient that was not finite.
        DataLossError: Too many clips could not be decoded, or the shares ended before the run did.
    """
    averages = Averages()
    clock = _Clock(job, state)
    checkpoint_due = False
    for share in clock.waiting(shares):
        _train_step(job, state, share, averages)
        step = state.step
        last = step == job.total_steps
        if step % job.log_every == 0 or last:
            _log(job, state, averages, clock)
        if step % job.config.validate_every == 0 or last:
            _validate(job, state)
        if step % job.config.picture_every == 0 or last:
            _take_pictures(job, state)
        checkpoint_due = checkpoint_due or step % job.config.checkpoint_every == 0
        if last or (checkpoint_due and job.method.at_rest):
            _save(job, state)
            checkpoint_due = False
        clock.show()
        if last:
            break
    if state.step < job.total_steps:
        raise DataLossError(
            f"the clips ended after step {state.step} of {job.total_steps}; start the run again, and it goes on from "
            f"its last checkpoint"
        )
    return state


def _train_step(job: Job, state: LoopState, share: StepShare, averages: Averages) -> None:
    # Dropout is the only user of the global generator; seeding it here makes every step a function of its number.
    torch.manual_seed(job.seed * 1_000_003 + state.step * job.context.world_size + job.context.rank)
    for trainable in job.stepper.trainables.values():
        trainable.set_step(state.step)
    _note_failures(job, state, share)
    batches = [batch.to(job.context.device) for batch in share.batches]
    job.method.train_step(batches, step=state.step, stepper=job.stepper, averages=averages)
    state.step += 1
    state.clips += job.config.global_batch
    state.skipped_steps = job.stepper.skipped_steps


def _note_failures(job: Job, state: LoopState, share: StepShare) -> None:
    failed = torch.tensor([float(len(share.failures))], device=job.context.device)
    job.context.all_reduce(failed)
    state.failed_clips += int(failed.item())
    if share.failures:
        with (job.folder / f"failed_clips.{job.context.rank}.csv").open("a", newline="") as file:
            csv.writer(file).writerows((state.step, *failure) for failure in share.failures)
    seen = state.clips + job.config.global_batch
    if state.failed_clips > job.max_failed_share * max(seen, GRACE_CLIPS):
        raise DataLossError(
            f"{state.failed_clips} of {seen} clips could not be decoded, more than data.max_failed_share="
            f"{job.max_failed_share} allows; the files and reasons are in {job.folder / 'failed_clips.*.csv'}: "
            f"index the videos again, or allow a larger share"
        )


def _log(job: Job, state: LoopState, averages: Averages, clock: "_Clock") -> None:
    means = reduce_means(averages, job.context)
    clock.loss = means.get("reconstruction/loss", float("nan"))
    clips_per_second, wait_share = clock.read()
    rates = {
        "throughput/clips_per_second": clips_per_second,
        "time/wait_share": wait_share,
        "data/failed_clips": float(state.failed_clips),
        "optimizer/skipped_steps": float(state.skipped_steps),
    }
    for name, trainable in job.stepper.trainables.items():
        rates[f"optimizer/{name}_learning_rate"] = trainable.learning_rate
    for name, norm in job.stepper.grad_norms.items():
        rates[f"optimizer/{name}_grad_norm"] = norm
    job.tracker.log_metrics({**means, **rates}, step=state.step)


def _validate(job: Job, state: LoopState) -> None:
    averages = Averages()
    if len(job.held_out.batch):
        job.method.validate(job.held_out, averages=averages)
    measured = reduce_means(averages, job.context)
    events = dict(job.method.after_validation(measured, step=state.step))
    state.measured = measured
    state.events.update(events)
    job.tracker.log_metrics({**measured, **events}, step=state.step)


def _take_pictures(job: Job, state: LoopState) -> None:
    if job.context.rank == 0 and len(job.held_out.batch):
        for path in write_pictures(job.method.snapshot(job.held_out), job.folder / "pictures", step=state.step):
            job.tracker.log_file(path, folder="pictures")


def _save(job: Job, state: LoopState) -> None:
    folder = job.folder / "checkpoints" / f"step_{state.step:08d}"
    if job.context.rank == 0:
        plain = {"loop": dict(vars(state)), "method": job.method.state_dict()}
        folder = save_checkpoint(
            folder.parent,
            step=state.step,
            modules=job.method.modules(),
            trainables=job.stepper.trainables,
            state=plain,
            keep=job.config.keep_checkpoints,
        )
    job.context.checkpointed(folder, state.measured)


def reduce_means(averages: Averages, context: WorkerContext) -> dict[str, float]:
    """Return the means over all workers, with what is derived from two of them."""
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    parts: Sequence[Mapping[str, tuple[float, float]]] = context.all_gather(averages.take())  # type: ignore[assignment]
    for part in parts:
        for name, (total, count) in part.items():
            sums[name] = sums.get(name, 0.0) + total
            counts[name] = counts.get(name, 0.0) + count
    means = {name: sums[name] / counts[name] for name in sums if counts[name]}
    for group, error in (("ppo", "value_loss"), ("validation", "critic_error")):
        error_mean, variance = means.get(f"{group}/{error}"), means.get(f"{group}/error_variance")
        if error_mean is not None and variance:
            means[f"{group}/explained_variance"] = 1 - error_mean / variance
    return means


class _Clock:
    """Time since the last log: how much of it was waiting, and how fast clips go."""

    def __init__(self, job: Job, state: LoopState) -> None:
        self.job = job
        self.state = state
        self.loss = float("nan")
        self.began = self.window_began = time.monotonic()
        self.window_clips = state.clips
        self.waited = 0.0
        self.rates = (0.0, 0.0)

    def waiting(self, shares: Iterable[StepShare]) -> Iterable[StepShare]:
        """Pass the shares on; the time until each is there counts as waiting."""
        asked = time.monotonic()
        for share in shares:
            self.waited += time.monotonic() - asked
            yield share
            asked = time.monotonic()

    def read(self) -> tuple[float, float]:
        """Return clips per second and the share of waiting since the last reading, and start anew."""
        now = time.monotonic()
        seconds = max(now - self.window_began, 1e-9)
        self.rates = ((self.state.clips - self.window_clips) / seconds, self.waited / seconds)
        self.window_began, self.window_clips, self.waited = now, self.state.clips, 0.0
        return self.rates

    def show(self) -> None:
        """Tell the launcher where the run is, with the rates last read."""
        if self.job.context.rank == 0 and self.loss == self.loss:  # nothing is known before the first log
            self.job.context.progress(
                ProgressState(
                    step=self.state.step,
                    total_steps=self.job.total_steps,
                    loss=self.loss,
                    clips_per_second=self.rates[0],
                    wait_share=self.rates[1],
                    seconds=time.monotonic() - self.began,
                    stage=self.job.method.stage,
                )
            )
