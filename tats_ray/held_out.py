"""The clips that are never trained on, and those that a probe learns from, as one worker holds them."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from tats_ray.config.run import Run
from tats_ray.data.batches import ClipBatch
from tats_ray.data.clips import Clip, load_center_clip
from tats_ray.data.codes import CodeCache
from tats_ray.data.decode import Decode
from tats_ray.data.guard import GuardedDecoder
from tats_ray.data.loader import as_tensors
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.data.order import PROBE
from tats_ray.data.samples import load_coded_clip
from tats_ray.data.source import DecodeError
from tats_ray.data.synthetic import token_truth
from tats_ray.masking.draws import exponential_clocks
from tats_ray.methods.base import HeldOut
from tats_ray.training.context import WorkerContext
from tats_ray.training.probe import ProbeClips
from tats_ray.training.quarantine import DataLossError


def load_held_out(run: Run, manifest: Manifest, context: WorkerContext) -> HeldOut:
    """Decode this worker's part of the held-out clips: their middle, uncropped and unflipped where they can be."""
    grid = run.grid
    kept, failures = _middle_clips(run, manifest, context)
    counts = context.all_gather(len(kept))
    if not any(counts):  # type: ignore[arg-type]
        raise DataLossError(f"none of the {len(manifest)} held-out videos could be decoded; index the videos again")
    rows = torch.tensor([index for index, _ in kept], dtype=torch.int64)
    shape = (len(manifest), grid.num_tokens)
    clocks = exponential_clocks(shape, seed=run.seed, step=-1, device=torch.device("cpu"))[rows]
    truth: dict[str, torch.Tensor] = {}
    records = [manifest.record(index) for index, _ in kept]
    if records and all(record.truth for record in records):
        shares = [
            token_truth(Path(str(record.truth)), record, clip, grid)
            for record, (_, clip) in zip(records, kept, strict=True)
        ]
        for position, name in enumerate(("mover", "twin")):
            truth[name] = torch.stack([torch.from_numpy(share[position]) for share in shares]).to(context.device)
    batch = ClipBatch(video=_stacked(run, kept), row=rows, **_codes_of(run, records)).to(context.device)
    labels = torch.tensor([record.label for record in records], dtype=torch.int64) if is_labelled(manifest) else None
    return HeldOut(batch=batch, clocks=clocks.to(context.device), truth=truth, failures=failures, labels=labels)


def load_probe_clips(run: Run, videos: Manifest, context: WorkerContext) -> ProbeClips | None:
    """Decode this worker's part of the training videos from which a ridge probe learns; None where none is wanted."""
    if run.training.probe_every is None or not is_labelled(videos):
        return None
    drawn = np.random.default_rng([run.seed, PROBE]).permutation(len(videos))[: run.training.probe_clips]
    chosen = videos.select(np.sort(drawn))
    kept, _ = _middle_clips(run, chosen, context)  # training meets those that fail, and lists them
    labels = torch.tensor([chosen.record(index).label for index, _ in kept], dtype=torch.int64)
    return ProbeClips(_stacked(run, kept), labels)


def is_labelled(manifest: Manifest) -> bool:
    """Say whether every video has the number of its class."""
    return all(label is not None and label >= 0 for label in manifest.table["label"].to_pylist())


def _middle_clips(
    run: Run, manifest: Manifest, context: WorkerContext
) -> tuple[list[tuple[int, Clip]], list[tuple[str, str]]]:
    """Decode this worker's part; return the clips with their rows, and path and reason of those that failed."""
    indices = range(context.rank, len(manifest), context.world_size)
    with GuardedDecoder(run.data) as decode, ThreadPoolExecutor(os.cpu_count()) as pool:
        loaded = list(pool.map(lambda index: _load(run, manifest.record(index), decode), indices))
    kept = [(index, clip) for index, clip in zip(indices, loaded, strict=True) if isinstance(clip, Clip)]
    return kept, [clip for clip in loaded if not isinstance(clip, Clip)]


def _stacked(run: Run, kept: Sequence[tuple[int, Clip]]) -> torch.Tensor:
    size, frames = run.data.crop_size, run.data.num_frames
    if not kept:
        return torch.zeros(0, frames, size, size, 3, dtype=torch.uint8)
    return torch.stack([torch.from_numpy(clip.video) for _, clip in kept])


def _codes_of(run: Run, records: Sequence[VideoRecord]) -> dict[str, torch.Tensor]:
    """Return codes and importance of the clips that :func:`_load` decodes; nothing without cached codes."""
    if run.data.codes is None or not records:
        return {}
    cache = CodeCache.open(Path(run.data.codes), clip=run.data)
    return as_tensors([cache.read(record, cache.middle(record)) for record in records])


def _load(run: Run, record: VideoRecord, decode: Decode) -> Clip | tuple[str, str]:
    """Return a clip, or path and reason."""
    try:
        if run.data.codes is None:
            return load_center_clip(record, run.data, decode=decode)
        return load_coded_clip(record, run.data, Path(run.data.codes), rng=None, decode=decode)[0]
    except DecodeError as error:
        return record.source.name, error.reason
