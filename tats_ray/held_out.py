"""The clips that are never trained on, as one worker holds them."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from tats_ray.config.run import TrainRun
from tats_ray.data.batches import ClipBatch
from tats_ray.data.clips import Clip, load_center_clip
from tats_ray.data.decode import Decode
from tats_ray.data.guard import GuardedDecoder
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.data.source import DecodeError
from tats_ray.data.synthetic import token_truth
from tats_ray.masking.draws import exponential_clocks
from tats_ray.methods.base import HeldOut
from tats_ray.training.context import WorkerContext
from tats_ray.training.quarantine import DataLossError


def load_held_out(run: TrainRun, manifest: Manifest, context: WorkerContext) -> HeldOut:
    """Decode this worker's part of the held-out clips: their middle, uncropped and unflipped where they can be."""
    grid = run.grid
    indices = range(context.rank, len(manifest), context.world_size)
    with GuardedDecoder(run.data) as decode, ThreadPoolExecutor(os.cpu_count()) as pool:
        loaded = list(pool.map(lambda index: _load(run, manifest.record(index), decode), indices))
    kept = [(index, clip) for index, clip in zip(indices, loaded, strict=True) if isinstance(clip, Clip)]
    failures = [clip for clip in loaded if not isinstance(clip, Clip)]
    counts = context.all_gather(len(kept))
    if not any(counts):  # type: ignore[arg-type]
        raise DataLossError(f"none of the {len(manifest)} held-out videos could be decoded; index the videos again")
    size, frames = run.data.crop_size, run.data.num_frames
    video = (
        torch.stack([torch.from_numpy(clip.video) for _, clip in kept])
        if kept
        else torch.zeros(0, frames, size, size, 3)
    )
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
    batch = ClipBatch(video=video.to(torch.uint8), row=rows).to(context.device)
    return HeldOut(batch=batch, clocks=clocks.to(context.device), truth=truth, failures=failures)


def _load(run: TrainRun, record: VideoRecord, decode: Decode) -> Clip | tuple[str, str]:
    """Return a clip, or path and reason."""
    try:
        return load_center_clip(record, run.data, decode=decode)
    except DecodeError as error:
        return record.source.name, error.reason
