"""Ray Data: manifest rows in, each worker's decoded share of every step out; each stage is one call into tats_ray.data.

Every worker streams its own rows, in its own order, cut from the seeded permutation of the manifest. Ray's own split
gives no promise which rows a worker gets; here that is a function of seed and position, whatever the timing, and a
restarted or resized group of workers goes on at the very position of its checkpoint.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray.data

from tats_ray.cluster.decode_task import decode_rows
from tats_ray.cluster.runtime import node_resources
from tats_ray.data.clips import ClipConfig
from tats_ray.data.code_rows import Coded
from tats_ray.data.guard import GuardConfig
from tats_ray.data.loader import ShareSpec, StepShare, make_share
from tats_ray.data.manifest import Manifest
from tats_ray.data.order import samples_at
from tats_ray.data.samples import Sample

BLOCKS_PER_STREAM = 2048
"""One stream plans this many decode tasks ahead; the next stream starts when it ends, which costs about a second."""

BLOCK_BYTES, BLOCK_CLIPS = 64 * 2**20, 48
"""What one decode task makes at most. A core idles between two tasks: tasks of 16 clips of 112 pixels left a quarter of
two cores unused, tasks of 48 a tenth (docs/performance.md)."""

STORE_SHARE = 0.5
"""Of an object store that blocks may fill, which is Ray Data's own goal; what a full one cannot hold goes to disk."""


def ray_shares(
    manifest: Manifest,
    spec: ShareSpec,
    *,
    clips_per_block: int | None,
    decode_cpus: float | None,
    guard: GuardConfig = GuardConfig(),  # noqa: B008  # frozen
) -> Iterator[StepShare]:
    """Yield this worker's share of every step.

    Args:
        manifest: The training videos.
        spec: Which samples, and how they are cut into micro-batches.
        clips_per_block: Clips that one decode task makes; None for what ``block_clips`` says.
        decode_cpus: CPUs that this worker's decode tasks may take together; None for all that are free.
        guard: What the decoding of one video may take.
    """
    clips_per_block = clips_per_block or block_clips(spec.clip, node_resources(), streams=spec.world_size)
    steps_per_stream = max(1, BLOCKS_PER_STREAM * clips_per_block // spec.share)
    for first in range(spec.steps.start, spec.steps.stop, steps_per_stream):
        steps = range(first, min(first + steps_per_stream, spec.steps.stop))
        yield from _stream(
            manifest,
            replace(spec, steps=steps),
            guard=guard,
            clips_per_block=clips_per_block,
            decode_cpus=decode_cpus,
        )


def block_clips(clip: ClipConfig, nodes: Sequence[Mapping[str, float]], *, streams: int) -> int:
    """Return the clips of a decode task where nobody says: worth its scheduling, and no more than memory bears.

    Which clips a step has does not depend on it.

    Args:
        clip: What a clip is.
        nodes: The resources of each machine.
        streams: Workers that stream at once. Each begins with a task for every CPU, before Ray Data knows how large a
            block is; these blocks are to fit into a machine's store.
    """
    room = [STORE_SHARE * node["object_store_memory"] / node["CPU"] / streams for node in nodes if node.get("CPU")]
    return max(1, min(BLOCK_CLIPS, int(min([BLOCK_BYTES, *room])) // (clip.num_frames * clip.crop_size**2 * 3)))


def _stream(
    manifest: Manifest, spec: ShareSpec, *, guard: GuardConfig, clips_per_block: int, decode_cpus: float | None
) -> Iterator[StepShare]:
    positions = spec.first_positions()
    views = spec.clip.views_per_decode
    rows = samples_at(positions // views, parts=manifest.parts, seed=spec.seed)
    table = manifest.table.take(pa.array(rows)).append_column("position", pa.array(positions))
    # Cut by hand: a Parquet reader makes one task of a small file, and a repartition is a barrier.
    rows_per_block = max(1, clips_per_block // views)
    blocks = [table.slice(start, rows_per_block) for start in range(0, len(table), rows_per_block)]
    dataset = ray.data.from_arrow(blocks).map_batches(
        cast("Any", decode_rows),  # Ray's type of a function leaves no room for keyword arguments
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        fn_kwargs={
            "config": spec.clip,
            "seed": spec.seed,
            "guard": guard,
            "truth_grid": spec.truth_grid,
            "codes": spec.codes,
        },
    )
    options = dataset.context.execution_options
    options.preserve_order = True
    if decode_cpus is not None:
        options.resource_limits = options.resource_limits.copy(cpu=decode_cpus)
    for batch in dataset.iter_batches(batch_size=spec.share, batch_format="numpy", prefetch_batches=2):
        yield make_share(_samples(cast("dict[str, np.ndarray]", batch)), spec)


def _samples(batch: dict[str, np.ndarray]) -> list[Sample]:
    columns = (batch["position"].tolist(), batch["path"], batch["video"], batch["reason"], batch["failed"])
    nothing = [None] * len(batch["failed"])
    truths = batch.get("truth", nothing)
    coded = (
        [Coded(codes, importance) for codes, importance in zip(batch["codes"], batch["importance"], strict=True)]
        if "codes" in batch
        else nothing
    )
    return [
        Sample(position, str(path), None, str(reason))
        if failed
        else Sample(position, str(path), video, str(reason), truth, bool(short), one)
        for position, path, video, reason, failed, truth, short, one in zip(
            *columns, truths, batch["short"], coded, strict=True
        )
    ]
