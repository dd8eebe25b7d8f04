"""One worker's share of each step, without Ray: decoded by threads, in order, a bounded number of steps ahead."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal
from zlib import crc32

import numpy as np
import torch

from tats_ray.data.batches import ClipBatch
from tats_ray.data.clips import ClipConfig
from tats_ray.data.code_rows import Coded
from tats_ray.data.decode import Decode, decode_views
from tats_ray.data.manifest import Manifest
from tats_ray.data.order import samples_at, share_positions
from tats_ray.data.samples import Sample, load_samples
from tats_ray.data.synthetic import GridShape


@dataclass(frozen=True)
class StepShare:
    """What one worker trains on in one step."""

    batches: Sequence[ClipBatch]
    failures: Sequence[tuple[str, str]]  # path and reason of the clips that are missing
    short: Sequence[bool] = ()  # of each clip that is there, whether its video is shorter


@dataclass(frozen=True)
class ShareSpec:
    """Which samples a worker gets, and how they are cut into micro-batches."""

    clip: ClipConfig
    seed: int
    steps: range
    global_batch: int
    micro_batch: int
    rank: int = 0
    world_size: int = 1
    truth_grid: GridShape | None = None  # tokens of a clip, where clips are to come with their ground truth
    codes: Path | None = None  # folder of cached codes, where clips are those that were encoded

    def __post_init__(self) -> None:
        if self.share % self.clip.views_per_decode:
            raise ValueError(
                f"data.views_per_decode must divide the clips of one worker in one step, got "
                f"{self.clip.views_per_decode} and {self.share}"
            )

    @property
    def share(self) -> int:
        """Clips of one worker in one step."""
        return self.global_batch // self.world_size

    def positions(self) -> np.ndarray:
        """Positions of this worker over all steps, in order."""
        return share_positions(self.steps, global_batch=self.global_batch, rank=self.rank, world_size=self.world_size)

    def first_positions(self) -> np.ndarray:
        """The first position of each video that this worker decodes, in order."""
        return self.positions()[:: self.clip.views_per_decode]


def make_share(samples: Sequence[Sample], spec: ShareSpec) -> StepShare:
    """Put one step's samples into micro-batches; clips that failed leave their rows empty."""
    batches = []
    for start in range(0, len(samples), spec.micro_batch):
        part = [(s, s.video) for s in samples[start : start + spec.micro_batch] if s.video is not None]
        size, frames = spec.clip.crop_size, spec.clip.num_frames
        video = np.stack([clip for _, clip in part]) if part else np.zeros((0, frames, size, size, 3), np.uint8)
        rows = torch.tensor([sample.position % spec.global_batch for sample, _ in part], dtype=torch.int64)
        truth = None if spec.truth_grid is None else _truth([sample for sample, _ in part], spec.truth_grid)
        coded = [sample.coded for sample, _ in part if sample.coded is not None]
        batches.append(ClipBatch(video=torch.from_numpy(video), row=rows, truth=truth, **as_tensors(coded)))
    failures = [(sample.path, sample.reason) for sample in samples if sample.video is None]
    return StepShare(batches, failures, [sample.short for sample in samples if sample.video is not None])


def as_tensors(coded: Sequence[Coded]) -> dict[str, torch.Tensor]:
    """Return codes and importance of some clips as a :class:`ClipBatch` has them; nothing where there are none."""
    if not coded:
        return {}
    return {
        "codes": torch.from_numpy(np.stack([one.codes for one in coded]).astype(np.int64)),
        "importance": torch.from_numpy(np.stack([one.importance for one in coded]).astype(np.float32)),
    }


def _truth(samples: Sequence[Sample], grid: GridShape) -> torch.Tensor:
    known = [sample.truth for sample in samples if sample.truth is not None]
    assert len(known) == len(samples)
    tokens = grid.time * grid.height * grid.width
    return torch.from_numpy(np.stack(known) if known else np.zeros((0, tokens), np.float32))


def decodes(manifest: Manifest, spec: ShareSpec) -> Iterator[tuple[int, int]]:
    """Yield first position and manifest row of each video that this worker decodes, looked up a step at a time."""
    for step in spec.steps:
        positions = replace(spec, steps=range(step, step + 1)).first_positions()
        rows = samples_at(positions // spec.clip.views_per_decode, parts=manifest.parts, seed=spec.seed)
        yield from zip(positions.tolist(), rows.tolist(), strict=True)


def threaded_shares(
    manifest: Manifest,
    spec: ShareSpec,
    *,
    threads: int,
    decode: Decode = decode_views,
    route: Literal["any", "by video"] = "any",
    steps_ahead: int = 4,
) -> Iterator[StepShare]:
    """Yield each step's share, decoded in threads.

    Args:
        manifest: The training videos.
        spec: Which samples, and how they are cut into micro-batches.
        threads: How many decode side by side.
        decode: Decodes the views.
        route: Whether a video goes to any thread that is free, or always to the same one, which may keep its frames.
        steps_ahead: How far decoding may run ahead.
    """
    sizes = [threads] if route == "any" else [1] * threads
    pools = [ThreadPoolExecutor(size, thread_name_prefix="decode") for size in sizes]
    waiting: deque[Future[list[Sample]]] = deque()
    todo = decodes(manifest, spec)
    decodes_a_step = spec.share // spec.clip.views_per_decode

    def fill() -> None:
        for position, row in todo:
            record = manifest.record(row)
            pool = pools[crc32(record.source.name.encode()) % len(pools)]  # stretches of one file go together
            waiting.append(
                pool.submit(
                    load_samples,
                    record,
                    spec.clip,
                    seed=spec.seed,
                    position=position,
                    decode=decode,
                    truth_grid=spec.truth_grid,
                    codes=spec.codes,
                )
            )
            if len(waiting) >= decodes_a_step * (steps_ahead + 1):
                return

    try:
        for _ in spec.steps:
            fill()
            decoded = [waiting.popleft().result() for _ in range(decodes_a_step)]
            yield make_share(list(chain.from_iterable(decoded)), spec)
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
