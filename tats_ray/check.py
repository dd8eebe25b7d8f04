"""Before a run: do its videos decode, how fast; how fast does its model train here; and what is to be changed first."""

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tats_ray.config.run import TrainRun
from tats_ray.data.guard import GuardedDecoder
from tats_ray.data.loader import ShareSpec, make_share
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.data.order import samples_at, split_held_out
from tats_ray.data.samples import Sample, load_samples
from tats_ray.driver import prepare
from tats_ray.masking.fixed import RandomConfig
from tats_ray.masking.oracle import OracleConfig
from tats_ray.masking.tats import SwitchConfig, TATSConfig
from tats_ray.methods.averages import Averages
from tats_ray.tracking.figures import save_sheet
from tats_ray.tracking.overlays import Video
from tats_ray.training.context import LocalContext
from tats_ray.training.loop import DataLossError
from tats_ray.training.stepper import GradientStepper
from tats_ray.worker import build, make_trainables

SAMPLES = 100
SHOWN = 8
"""Clips on the contact sheet."""
BATCH = {"cpu": 4}
"""Most clips of a measured step; other devices take the run's micro-batch."""
FILLER = {"hold": "their last frame", "loop": "their own beginning", "refuse": "nothing, since they are refused"}
"""What makes a clip of a video that is shorter, by ``data.short_videos``."""
STEPS = 1000
"""Length of the run whose first step is measured; any."""
MIN_SECONDS = 3.0
"""Steps are measured for at least this long."""


@dataclass(frozen=True)
class Check:
    """What was measured."""

    clips: int
    """Clips asked for."""
    failures: Sequence[tuple[str, str]]
    """Path and reason of those that did not decode."""
    held: int
    """Clips of videos that are shorter than a clip: their last frame is held, or they begin again."""
    frame_size: tuple[int, int]
    """Median width and height of the videos."""
    decode_rate: float
    """Clips a second that one core decodes."""
    train_rate: float
    """Clips a second that this device trains on, its sampler at work."""
    device: torch.device
    batch: int
    """Clips of a measured step."""
    sheet: Path | None
    """Picture of augmented clips."""

    @property
    def lost_share(self) -> float:
        """Share of the clips that did not decode."""
        return len(self.failures) / self.clips

    @property
    def cores_per_worker(self) -> float:
        """Cores that must decode so that one device never waits."""
        return self.train_rate / self.decode_rate


def check(run: TrainRun, *, device: torch.device, sheet: Path) -> Check:
    """Decode the first clips of a run one after the other, then train on some of them; nothing of it is kept.

    Args:
        run: The run.
        device: Where to train.
        sheet: Where the picture goes; a run that writes no pictures writes none here either.

    Raises:
        ConfigError, ManifestError, CheckpointError: The run could not start.
        DataLossError: None of the clips decodes.
    """
    run, manifest = prepare(run)
    records, samples, seconds = _decode(run, manifest)
    decoded = [sample for sample in samples if sample.video is not None]
    failures = [(sample.path, sample.reason) for sample in samples if sample.video is None]
    if not decoded:
        path, reason = failures[0]
        raise DataLossError(f"none of {len(samples)} clips could be decoded; the first is of {path}: {reason}")
    train_rate, batch = training_rate(run, decoded, device)
    if run.training.picture_every is not None:
        save_sheet(_rows(decoded), sheet, title="clips as they are trained on")
    return Check(
        clips=len(samples),
        failures=failures,
        held=sum(run.data.pace.latest_start(record) < 0 for record in records) * run.data.views_per_decode,
        frame_size=(_median(record.width for record in records), _median(record.height for record in records)),
        decode_rate=len(samples) / seconds,
        train_rate=train_rate,
        device=device,
        batch=batch,
        sheet=None if run.training.picture_every is None else sheet,
    )


def _decode(run: TrainRun, manifest: Manifest) -> tuple[list[VideoRecord], list[Sample], float]:
    """Return the videos and clips of the first positions, and the seconds that decoding took on one core."""
    rows, _ = split_held_out(len(manifest), held_out=run.data.held_out, seed=run.seed)
    views = run.data.views_per_decode
    order = samples_at(np.arange(math.ceil(SAMPLES / views)), parts=manifest.select(rows).parts, seed=run.seed)
    records = [manifest.record(int(rows[row])) for row in order]
    began = time.perf_counter()
    with GuardedDecoder(run.data) as decode:
        samples = [
            sample
            for place, record in enumerate(records)
            for sample in load_samples(record, run.data, seed=run.seed, position=place * views, decode=decode)
        ]
    return records, samples, time.perf_counter() - began


def training_rate(
    run: TrainRun, samples: Sequence[Sample], device: torch.device, *, seconds: float = MIN_SECONDS
) -> tuple[float, int]:
    """Return the clips a second and the clips a step of training, a sampler's updates included.

    Args:
        run: The run.
        samples: Decoded clips of its shape; a step takes as many of them as it can.
        device: Where to train.
        seconds: At least so long is measured.
    """
    visible, repeats = run.masking.visible, 1
    if isinstance(visible, TATSConfig):  # on from the start, for so many steps as one of its updates takes
        visible = visible.model_copy(update={"switch": SwitchConfig(critic_by=0, policy_by=0)})
        repeats = visible.ppo.rollout_steps
    if isinstance(visible, OracleConfig):  # these clips come without their truth; a uniform draw costs as much
        visible = RandomConfig()
    run = run.model_copy(update={"masking": run.masking.model_copy(update={"visible": visible})})
    batch = min(run.training.micro_batch, len(samples), BATCH.get(device.type, run.training.micro_batch))
    run = run.model_copy(update={"training": run.training.model_copy(update={"global_batch": batch})})
    method = build(run, STEPS, device)
    trainables = make_trainables(run, method, STEPS)
    stepper = GradientStepper(
        trainables,
        LocalContext(device),
        precision=run.training.precision,
        max_skipped_steps=run.optim.max_skipped_steps,
    )
    for step in (1, 2):
        method.after_validation({"validation/error_spread": 0.0, "validation/explained_variance": 0.0}, step=step)
    clip = run.data.model_copy(update={"views_per_decode": 1})
    spec = ShareSpec(clip=clip, seed=0, steps=range(1), global_batch=batch, micro_batch=batch)
    batches = [part.to(device) for part in make_share(samples[:batch], spec).batches]
    taken, steps, began = 0.0, -repeats, 0.0
    while steps <= 0 or taken < seconds:
        if steps == 0:  # the first round warms caches, allocators and compilers up
            began = time.perf_counter()
        for _ in range(repeats):
            method.train_step(batches, step=0, stepper=stepper, averages=Averages())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        steps += repeats
        taken = time.perf_counter() - began if steps > 0 else 0.0
    return steps * batch / taken, batch


def _rows(samples: Sequence[Sample]) -> dict[str, Video]:
    """Return clips by name, a row each; names that occur twice are numbered."""
    rows: dict[str, Video] = {}
    for sample in samples[:SHOWN]:
        assert sample.video is not None
        name = Path(sample.path).stem
        rows[name if name not in rows else f"{name} {len(rows)}"] = sample.video
    return rows


def _median(values: Iterable[int]) -> int:
    return int(statistics.median(values))


def first_change(measured: Check, run: TrainRun, *, cores: int) -> str:
    """Say what is to be changed first; ``cores`` is what this machine has."""
    if measured.lost_share > run.data.max_failed_share:
        return (
            f"the files: more clips are lost than data.max_failed_share={run.data.max_failed_share} allows; index them "
            f"again with --verify, which leaves the damaged ones out"
        )
    if measured.held > measured.clips / 2:
        return (
            f"the clip: most videos are shorter than it, and what fills it is {FILLER[run.data.short_videos]}; take "
            f"fewer frames, or closer ones (data.num_frames, data.frame_stride, data.fps)"
        )
    if measured.cores_per_worker <= cores:
        return "nothing: with these files the device, not decoding, is the limit"
    width, height = measured.frame_size
    if min(width, height) > 1.5 * run.data.crop_size:
        return (
            f"the files: frames of {width}x{height} are decoded for clips of {run.data.crop_size} pixels; index them "
            f"with --transcode DIR --short-side {max(round(1.15 * run.data.crop_size / 2) * 2, 32)}"
        )
    return "decoding: data.cache=memory if the videos fit, data.views_per_decode=4, or more machines that decode"
