"""The training loop, the same for every method: fetch, step, log, validate, save."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from tats_ray.data.batches import ClipBatch
from tats_ray.data.loader import StepShare
from tats_ray.interruption import Stopped
from tats_ray.methods.averages import Averages, Tally, usage
from tats_ray.methods.base import HeldOut, Method
from tats_ray.tracking.base import Tracker
from tats_ray.tracking.progress import ProgressState
from tats_ray.training.checkpointer import Checkpointer, Retention
from tats_ray.training.config import TrainingConfig
from tats_ray.training.context import WorkerContext
from tats_ray.training.pictures import write_pictures
from tats_ray.training.probe import ProbeClips, probe
from tats_ray.training.quarantine import HELD_OUT_STEP, DataLossError, OnError, Quarantine
from tats_ray.training.state import Captured, CheckpointError, capture
from tats_ray.training.stepper import GradientStepper


@dataclass
class LoopState:
    """Where a run stands, beside parameters and optimisers."""

    step: int = 0
    clips: int = 0
    failed_clips: int = 0
    skipped_steps: int = 0
    flops: float = 0.0  # counted, of training
    events: dict[str, float] = field(default_factory=dict)  # the switch-on of the sampler, say
    measured: dict[str, float] = field(default_factory=dict)  # the last validation
    seconds: dict[str, float] = field(default_factory=dict, compare=False)  # wall time by part of the ledger


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
    on_error: OnError
    max_failed_share: float
    folder: Path
    run_id: str | None  # of the tracker
    flops: Callable[[str], float]  # counted for the training of one clip at a stage of the method
    peak_flops: float  # a second, of all devices together
    probe: ProbeClips | None = None  # None where videos have no labels, or no probe is wanted


def train(job: Job, state: LoopState, shares: Iterable[StepShare]) -> LoopState:
    """Train from ``state.step`` to the end; ``shares`` begins with the share of that step.

    Raises:
        NotFiniteError: Too many steps had a gradient that was not finite.
        DataLossError: Too many clips could not be decoded, or the shares ended before the run did.
        CheckpointError: A checkpoint could not be written, or there is no such metric to choose the best by.
        Stopped: It was asked to stop, and has a checkpoint of its last step (none, if it has not done any).
    """
    config = job.config
    _check_best(job)
    quarantine = Quarantine(
        job.folder / "quarantine.csv",
        job.context,
        step=state.step,
        on_error=job.on_error,
        max_failed_share=job.max_failed_share,
    )
    retention = Retention(
        config.keep_checkpoints, best=config.keep_best, mode=config.keep_best_mode, after=config.keep_after
    )
    beside = (quarantine.path, job.folder / "pictures")
    with Checkpointer(job.folder / "checkpoints", job.context, retention, beside=beside) as checkpointer:
        try:
            _Training(job, state, checkpointer, quarantine).run(shares)
        finally:
            _log_quarantine(job, quarantine)
    return state


class _Training:
    """The job with what its steps hand on to each other."""

    def __init__(self, job: Job, state: LoopState, checkpointer: Checkpointer, quarantine: Quarantine) -> None:
        self.job = job
        self.state = state
        self.checkpointer = checkpointer
        self.quarantine = quarantine
        self.ledger = job.stepper.ledger
        self.averages = Averages()
        self.pace = _Pace(job, state)
        self.failed_held_out = 0
        self.stopping = False  # agreed by all workers
        self.saved_step = state.step

    def run(self, shares: Iterable[StepShare]) -> None:
        """Train to the end."""
        job, state, config = self.job, self.state, self.job.config
        self.failed_held_out = self.quarantine.add(job.held_out.failures, step=HELD_OUT_STEP)
        self.ledger.start(state.seconds)
        checkpoint_due = False
        for share in self._fetched(shares):
            with self.ledger.span("wait"):  # the workers meet here first, so it is here that they wait for the slowest
                leaving = self._agree(share)
            if leaving:
                self._leave()
            self._train_step(share)
            step, last = state.step, state.step == job.total_steps
            if step % job.log_every == 0 or last:
                self._log()
            if self._is_due(config.validate_every):
                self._validate()
            if self._is_due(config.probe_every):
                self._probe()
            if self._is_due(config.picture_every):
                self._take_pictures()
            checkpoint_due |= step % config.checkpoint_every == 0 or step in config.keep_after
            if last or (checkpoint_due and job.method.at_rest):
                self._save()
                checkpoint_due = False
            self.pace.show()
            if last:
                break
        with self.ledger.span("checkpoint"):
            self.checkpointer.settle()
        self.ledger.settle()
        if state.step < job.total_steps:
            raise DataLossError(
                f"the clips ended after step {state.step} of {job.total_steps}; start the run again, and it goes on "
                f"from its last checkpoint"
            )

    def _fetched(self, shares: Iterable[StepShare]) -> Iterator[StepShare]:
        source = iter(shares)
        while True:
            with self.ledger.span("wait"):
                share = next(source, None)
            if share is None:
                return
            yield share

    def _train_step(self, share: StepShare) -> None:
        job, state = self.job, self.state
        job.stepper.begin_step(state.step)
        batches = seeded(share.batches, job.context.device, seed=job.seed, step=state.step, stepper=job.stepper)
        flops = job.config.global_batch * job.flops(job.method.stage)
        job.method.train_step(batches, step=state.step, stepper=job.stepper, averages=self.averages)
        self.averages.add("data/short_clip_share", torch.tensor(share.short))
        state.step += 1
        state.clips += job.config.global_batch
        state.flops += flops
        state.skipped_steps = job.stepper.skipped_steps

    def _agree(self, share: StepShare) -> bool:
        """Let all workers know what any of them knows: of lost clips, a checkpoint that failed, a wish to stop.

        Returns:
            Whether to leave before this step: a stop waits until the method is at rest, as checkpoints do.
        """
        job, state = self.job, self.state
        known = (len(share.failures), self.checkpointer.failed, job.context.stopping())
        told = torch.tensor([float(value) for value in known], device=job.context.device)
        job.context.all_reduce(told)
        failures, unwritten, stopping = told.tolist()
        if unwritten:
            self.checkpointer.settle()
        self.stopping |= bool(stopping)
        if self.stopping and job.method.at_rest:
            return True
        if failures:
            state.failed_clips += self.quarantine.add(share.failures, step=state.step + 1)
            self.quarantine.check(state.failed_clips, clips=state.clips + job.config.global_batch)
        return False

    def _leave(self) -> NoReturn:
        """Save what was done since the last checkpoint, and what was measured since the last log.

        Raises:
            Stopped: When all of it is written.
        """
        state = self.state
        if state.step > self.saved_step:
            if state.step % self.job.log_every:
                self._log()
            self._save()
        with self.ledger.span("checkpoint"):
            self.checkpointer.settle()
        raise Stopped(f"asked to stop, after step {state.step} of {self.job.total_steps}")

    def _log(self) -> None:
        job, state = self.job, self.state
        with self.ledger.span("logging"):
            means = reduce_means(self.averages, job.context)
            self.pace.loss = means.get("reconstruction/loss", float("nan"))
            rates = {
                **self.pace.read(),
                "data/failed_clips": float(state.failed_clips),
                "data/failed_held_out": float(self.failed_held_out),
                "optimizer/skipped_steps": float(state.skipped_steps),
            }
            for name, trainable in job.stepper.trainables.items():
                rates[f"optimizer/{name}_learning_rate"] = trainable.learning_rate
            for name, norm in job.stepper.grad_norms.items():
                rates[f"optimizer/{name}_grad_norm"] = norm
            job.tracker.log_metrics({**means, **rates}, step=state.step)

    def _validate(self) -> None:
        job, state = self.job, self.state
        with self.ledger.span("validation"):
            measured = _measure(job)
            events = dict(job.method.after_validation(measured, step=state.step))
            state.measured = {**state.measured, **measured}
            state.events.update(events)
        with self.ledger.span("logging"):
            job.tracker.log_metrics({**measured, **events, "throughput/flops": state.flops}, step=state.step)
            _log_quarantine(job, self.quarantine)

    def _is_due(self, every: int | None) -> bool:
        step = self.state.step
        return every is not None and (step % every == 0 or step == self.job.total_steps)

    def _probe(self) -> None:
        job, state = self.job, self.state
        if job.probe is not None:
            with self.ledger.span("validation"):
                found = probe(job.method, job.probe, job.held_out, job.context)
                state.measured = {**state.measured, **found}
            with self.ledger.span("logging"):
                job.tracker.log_metrics(found, step=state.step)

    def _take_pictures(self) -> None:
        job = self.job
        if job.context.rank == 0 and len(job.held_out.batch):
            with self.ledger.span("logging"):
                snapshot = job.method.snapshot(job.held_out)
                for path in write_pictures(snapshot, job.folder / "pictures", step=self.state.step):
                    job.tracker.log_file(path, folder="pictures")

    def _save(self) -> None:
        with self.ledger.span("checkpoint"):
            self.ledger.settle()
            self.checkpointer.save(self._capture, measured=self.state.measured)
        self.saved_step = self.state.step

    def _capture(self, over: Captured | None) -> Captured:
        job, state = self.job, self.state
        return capture(
            step=state.step,
            modules=job.method.modules(),
            trainables=job.stepper.trainables,
            state={"loop": vars(state), "method": job.method.state_dict()},
            measured=state.measured,
            run_id=job.run_id,
            identity=job.method.identity(),
            over=over,
        )


def seeded(
    batches: Iterable[ClipBatch], device: torch.device, *, seed: int, step: int, stepper: GradientStepper
) -> Iterator[ClipBatch]:
    """Bring each micro-batch to the device when it is asked for, with dropout's generator seeded by its first clip.

    Dropout is the only user of the global generator. So it is a function of the run's position, and the same on any
    number of workers that cut a global batch into the same micro-batches.
    """
    for batch in batches:
        if len(batch):
            mixed = np.random.SeedSequence((seed, step, int(batch.row[0]))).generate_state(1, np.uint64)
            torch.manual_seed(int(mixed[0]))
        with stepper.span("transfer"):
            moved = batch.to(device)
        yield moved


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


def _measure(job: Job) -> dict[str, float]:
    averages = Averages()
    if len(job.held_out.batch):
        job.method.validate(job.held_out, averages=averages)
    tallies: Sequence[Mapping[str, Tally]] = job.context.all_gather(averages.take_tallies())  # type: ignore[assignment]
    return reduce_means(averages, job.context) | usage(tallies)


def _check_best(job: Job) -> None:
    """Refuse a metric that no validation measures; it takes one to know, but no step is lost by it."""
    best = job.config.keep_best
    if best is None:
        return
    measured = _measure(job)
    if best not in measured:
        raise CheckpointError(
            f"training.keep_best={best} is nothing that a validation measures; name one of "
            f"{', '.join(sorted(measured))}, or keep the newest only with training.keep_best=null"
        )


def _log_quarantine(job: Job, quarantine: Quarantine) -> None:
    if quarantine.has_news():
        job.tracker.log_file(quarantine.path, folder="data")


class _Pace:
    """How fast the run is since the last log, for its record and for its bar."""

    def __init__(self, job: Job, state: LoopState) -> None:
        self.job = job
        self.state = state
        self.loss = float("nan")
        self.began = time.monotonic()
        self.clips, self.flops = state.clips, state.flops
        self.rates: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        """Return rates and shares since the last reading, and start anew."""
        state, parts = self.state, self.job.stepper.ledger.read()
        seconds = max(sum(parts.values()), 1e-9)
        self.rates = {
            "throughput/clips_per_second": (state.clips - self.clips) / seconds,
            "throughput/mfu": (state.flops - self.flops) / seconds / self.job.peak_flops,
            **{f"time/{part}_share": taken / seconds for part, taken in parts.items()},
        }
        self.clips, self.flops = state.clips, state.flops
        return self.rates

    def show(self) -> None:
        """Tell the launcher where the run is, with the rates last read."""
        if self.job.context.rank == 0 and self.loss == self.loss:  # nothing is known before the first log
            self.job.context.progress(
                ProgressState(
                    step=self.state.step,
                    total_steps=self.job.total_steps,
                    loss=self.loss,
                    clips_per_second=self.rates["throughput/clips_per_second"],
                    wait_share=self.rates["time/wait_share"],
                    mfu=self.rates["throughput/mfu"],
                    seconds=time.monotonic() - self.began,
                    stage=self.job.method.stage,
                    failed_clips=self.state.failed_clips,
                )
            )
