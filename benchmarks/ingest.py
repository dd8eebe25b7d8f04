"""Clips a second into one training process, as ratios in one run: bare decoding, torch's DataLoader, Ray.

    python benchmarks/ingest.py                                   # on 24 self-made videos of 256 x 256, 10 s each
    python benchmarks/ingest.py --manifest videos.parquet         # on yours
    python benchmarks/ingest.py --soak 10000                      # Ray into a Train worker for long: is memory flat?

All contenders decode the same clips by the same function and stack them into the same batches; they take turns. As in a
run, threads and Ray decode in child processes; the bare loop and torch's loader are spared that.
"first batch" is the time until it is there, "steady" the rate without the first third of the clips. The loader and Ray
use all cores, the bare loop one; "of bare" compares with the bare loop's rate times the cores.
"""

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch.utils.data import DataLoader, Dataset

from tats_ray.cluster.dataset import ray_shares
from tats_ray.cluster.index import index_videos
from tats_ray.cluster.runtime import start_ray
from tats_ray.data.config import DataConfig
from tats_ray.data.guard import GuardConfig, GuardedDecoder
from tats_ray.data.loader import ShareSpec, StepShare, decodes, make_share, threaded_shares
from tats_ray.data.manifest import Manifest
from tats_ray.data.samples import load_samples
from tats_ray.data.synthetic import SyntheticConfig, make_videos

BATCH = 16
MADE = SyntheticConfig(num_videos=24, frames=240, size=256)


@dataclass(frozen=True)
class Rate:
    """How one contender fared."""

    first: float  # seconds until the first batch
    steady: float  # clips a second after the first third


def main() -> None:
    """Parse, time, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, help="videos to read (default: self-made ones)")
    parser.add_argument("--clips", type=int, default=640, help="clips of one turn (default: 640)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frame-stride", type=int, default=4)
    parser.add_argument("--crop-size", type=int, default=112)
    parser.add_argument("--clips-per-block", type=int, help="as cluster.clips_per_block (default: what a run takes)")
    parser.add_argument("--ray-cpus", type=int, help="CPUs that Ray believes in (default: what a run uses)")
    parser.add_argument("--only", nargs="*", help="contenders to run beside the bare loop (default: all)")
    parser.add_argument("--soak", type=int, metavar="CLIPS", help="stream so many clips into a Train worker instead")
    options = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's workers would yield to everything else on this machine
    start_ray(options.ray_cpus)
    with tempfile.TemporaryDirectory() as folder:
        manifest = Manifest.read(options.manifest or make_manifest(Path(folder)))
        data = DataConfig(num_frames=16, frame_stride=options.frame_stride, crop_size=options.crop_size)
        spec = ShareSpec(
            clip=data,
            seed=0,
            steps=range((options.soak or options.clips) // BATCH),
            global_batch=BATCH,
            micro_batch=BATCH,
        )
        if options.soak:
            soak(manifest, spec, options, Path(folder))
        else:
            compare(manifest, spec, options, Path(folder))


def make_manifest(folder: Path) -> Path:
    """Make and index videos."""
    make_videos(folder / "videos", MADE)
    return Path(index_videos(folder / "videos", out=folder / "videos.parquet").manifest_path)


def compare(manifest: Manifest, spec: ShareSpec, options: argparse.Namespace, folder: Path) -> None:
    """Let all contenders take turns, then print medians and ratios."""
    cores = len(os.sched_getaffinity(0))
    contenders: dict[str, Callable[[], Rate]] = {
        "bare loop, one core": lambda: timed(bare(manifest, spec)),
        "DataLoader": lambda: timed(loader(manifest, spec, workers=cores)),
        "threads, no Ray": lambda: timed(threaded(manifest, spec, threads=cores)),
        "Ray Data": lambda: timed(streamed(manifest, spec, options)),
        "Ray Data into Train": lambda: in_train_worker(manifest, spec, options, folder),
    }
    if options.only is not None:
        contenders = {name: it for name, it in contenders.items() if name in (*options.only, "bare loop, one core")}
    rates: dict[str, list[Rate]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, run in contenders.items():
            rates[name].append(run())
    clip = spec.clip
    print(
        f"{options.clips} clips a turn, {options.rounds} turns, {clip.num_frames} frames, stride {clip.frame_stride}, "
        f"to {clip.crop_size} pixels; {len(manifest)} videos; {cores} cores"
    )
    columns = ("first batch, s", 16), ("clips/s, steady", 26), ("of bare", 8), ("of DataLoader", 14)
    print(f"{'contender':<22}", *(f"{title:>{width}}" for title, width in columns))
    steady = {name: [rate.steady for rate in taken] for name, taken in rates.items()}
    for name, taken in rates.items():
        own, first = steady[name], [rate.first for rate in taken]
        ideal = [cores * value for value in steady["bare loop, one core"]]
        loaders = steady.get("DataLoader")
        print(
            f"{name:<22} {spread(first):>16} {spread(own):>26} {ratio(own, ideal):>8} "
            f"{ratio(own, loaders) if loaders else '-':>14}"
        )


def spread(values: list[float]) -> str:
    """Return median, minimum and maximum."""
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def ratio(mine: list[float], theirs: list[float]) -> str:
    """Return the median ratio of values taken in the same turn."""
    return f"{statistics.median(a / b for a, b in zip(mine, theirs, strict=True)):.2f}"


def timed(shares: Iterable[StepShare]) -> Rate:
    """Take all shares as fast as they come; the first third fills buffers and starts workers."""
    began = time.perf_counter()
    done = [(time.perf_counter() - began, sum(len(batch) for batch in share.batches)) for share in shares]
    start = len(done) // 3
    clips = sum(count for _, count in done[start + 1 :])
    return Rate(first=done[0][0], steady=clips / (done[-1][0] - done[start][0]))


def bare(manifest: Manifest, spec: ShareSpec) -> Iterable[StepShare]:
    """Decode one clip after the other in this thread."""
    samples = []
    for position, row in decodes(manifest, spec):
        samples += load_samples(manifest.record(row), spec.clip, seed=spec.seed, position=position)
        if len(samples) == spec.share:
            yield make_share(samples, spec)
            samples = []


class Clips(Dataset):
    """The clips of a worker, for torch's loader."""

    def __init__(self, manifest: Manifest, spec: ShareSpec) -> None:
        self.manifest, self.spec = manifest, spec
        self.places = list(decodes(manifest, spec))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        position, row = self.places[index]
        return load_samples(self.manifest.record(row), self.spec.clip, seed=self.spec.seed, position=position)[0]


def loader(manifest: Manifest, spec: ShareSpec, *, workers: int) -> Iterable[StepShare]:
    """Decode in worker processes of torch's DataLoader; batches are made there, as is usual."""
    return DataLoader(
        Clips(manifest, spec),
        batch_size=spec.share,
        num_workers=workers,
        collate_fn=partial(make_share, spec=spec),
        prefetch_factor=4,
    )


def threaded(manifest: Manifest, spec: ShareSpec, *, threads: int) -> Iterable[StepShare]:
    """Decode in children of this process's threads, as a run without Ray does."""
    with GuardedDecoder(GuardConfig()) as decode:
        yield from threaded_shares(manifest, spec, threads=threads, decode=decode)


def streamed(manifest: Manifest, spec: ShareSpec, options: argparse.Namespace) -> Iterable[StepShare]:
    """Decode in Ray Data tasks."""
    return ray_shares(manifest, spec, clips_per_block=options.clips_per_block, decode_cpus=None)


def in_train_worker(manifest: Manifest, spec: ShareSpec, options: argparse.Namespace, folder: Path) -> Rate:
    """Decode in Ray Data tasks for a Ray Train worker, as a run does."""
    out = folder / "rate.json"

    def loop() -> None:
        out.write_text(json.dumps(vars(timed(streamed(manifest, spec, options)))))

    TorchTrainer(
        loop,
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name=f"ingest-{time.time_ns()}", storage_path=str(folder)),
    ).fit()
    return Rate(**json.loads(out.read_text()))


def soak(manifest: Manifest, spec: ShareSpec, options: argparse.Namespace, folder: Path) -> None:
    """Stream for long; print object store and resident memory over time."""
    points: list[tuple[float, float, float]] = []
    over = threading.Event()

    def watch() -> None:
        began = time.perf_counter()
        while not over.wait(2):
            total, free = ray.cluster_resources(), ray.available_resources()
            used = total["object_store_memory"] - free.get("object_store_memory", 0)
            points.append((time.perf_counter() - began, used / 2**20, resident() / 2**20))

    watcher = threading.Thread(target=watch)
    watcher.start()
    rate = in_train_worker(manifest, spec, options, folder)
    over.set()
    watcher.join()
    print(f"{options.soak} clips, {rate.steady:.1f} clips/s, first batch after {rate.first:.1f} s")
    print(f"{'seconds':>8} {'object store, MiB':>18} {'resident, MiB':>14}")
    for seconds, store, memory in points[:: max(1, len(points) // 20)]:
        print(f"{seconds:>8.0f} {store:>18.0f} {memory:>14.0f}")


def resident() -> int:
    """Return the bytes that this process and all below it hold alone or share, each page counted once a process."""
    me = psutil.Process()
    total = 0
    for process in (me, *me.children(recursive=True)):
        try:
            total += process.memory_info().rss - process.memory_info().shared
        except psutil.Error:  # it ended meanwhile
            continue
    return total


if __name__ == "__main__":
    main()
