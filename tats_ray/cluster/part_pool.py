"""Ray Data: the missing parts of some work in, files out; tasks decode, actors that hold the model encode.

A part is one block from end to end: it is decoded by one task and encoded and written by one actor, whole or not at
all. Lost actors and tasks are started again by Ray, and a part that was written before is left as it is.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy

from tats_ray.cluster.runtime import machines_without, start_ray
from tats_ray.cluster.view_task import decode_part, views_of
from tats_ray.config.error import ConfigError
from tats_ray.data.guard import GuardConfig
from tats_ray.data.manifest import Manifest
from tats_ray.data.part_files import Part, PartError
from tats_ray.probing.config import ExtractionConfig
from tats_ray.probing.decoding import ViewLayout
from tats_ray.probing.work import EncodePart, Work

Load = Callable[..., Any]
"""Loads a frozen model from its checkpoint, onto a ``device``."""


def make_on_ray(
    manifest: Manifest,
    work: Work,
    *,
    load: Load,
    encode: EncodePart,
    weights: str,
    config: ExtractionConfig,
    advance: Callable[[int], object] = lambda videos: None,
) -> None:
    """Make the missing parts on Ray.

    Args:
        manifest: The videos.
        work: What to make.
        load: Each actor loads the model by it once.
        encode: Makes a part with the model.
        weights: Module of the checkpoint that the actors hold.
        config: How many actors, on what.
        advance: Told how many more videos are done.

    Raises:
        ConfigError: The cluster has too little for the actors, or does not see the folder that is written to.
        PartError: A part was not made.
    """
    missing = work.missing()
    advance(work.num_videos - sum(len(part.rows) for part in missing))
    if not missing:
        return
    # Ray Data starts its actors with arguments in the object store, and Ray's core would warn of that on the terminal.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    start_ray()
    gpus = _check_room(work.folder, config)
    device = "cuda" if gpus else "cpu"
    dataset = _in_actors(
        _decoded_blocks(manifest, missing, layout=work.layout, guard=work.guard),
        {"work": work, "parts": missing, "manifest": manifest, "load": load, "encode": encode, "device": device},
        config=config,
        gpus=gpus,
        at_most=len(missing),
        memory=(work.checkpoint / f"{weights}.safetensors").stat().st_size,
    )
    for done in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        advance(int(cast("dict[str, np.ndarray]", done)["videos"].sum()))
    if left := work.missing():
        raise PartError(
            f"{len(left)} of {len(work.parts())} parts were not written to {work.folder}; the same command makes the "
            f"missing ones"
        )


class PartActor:
    """Loads the model once, then encodes and writes one part after another."""

    def __init__(
        self, *, work: Work, parts: Sequence[Part], manifest: Manifest, load: Load, encode: EncodePart, device: str
    ) -> None:
        self._work = work
        self._parts = {part.number: part for part in parts}
        self._manifest = manifest
        self._encode = encode
        self._frozen = load(Path(work.checkpoint), device=torch.device(device))

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Encode the rows of one part; return how many videos that were."""
        (number,) = set(rows["part"].tolist())
        part = self._parts[number]
        records = [self._manifest.record(row) for row in part.rows]
        if [record.id for record in records] != rows["id"].tolist():
            raise PartError(f"part {number} came with other videos than its {len(records)}")
        self._encode(self._frozen, self._work, part, records, views_of(rows))
        return {"part": np.array([number]), "videos": np.array([len(records)])}


def _decoded_blocks(
    manifest: Manifest, missing: Sequence[Part], *, layout: ViewLayout, guard: GuardConfig
) -> ray.data.Dataset:
    """Return the decoded views of parts, a block each, in which a row is a video."""
    number = pa.array(np.concatenate([np.full(len(part.rows), part.number) for part in missing]))
    rows = np.concatenate([np.asarray(part.rows) for part in missing])
    table = manifest.table.take(pa.array(rows)).append_column("part", number)
    sizes = [len(part.rows) for part in missing]
    blocks = [table.slice(start, size) for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False)]
    return ray.data.from_arrow(blocks).map_batches(
        cast("Any", decode_part),  # Ray's type of a function leaves no room for keyword arguments
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        fn_kwargs={"layout": layout, "guard": guard},
    )


def _in_actors(
    blocks: ray.data.Dataset,
    arguments: dict[str, Any],
    *,
    config: ExtractionConfig,
    gpus: int,
    at_most: int,
    memory: int,
) -> ray.data.Dataset:
    """Have actors work on whole blocks.

    Args:
        blocks: What they work on.
        arguments: Each is made with.
        config: How many actors, on what.
        gpus: Of each.
        at_most: Actors that there is work for.
        memory: Bytes that the weights take. Without a difference in what is asked for, Ray would have the actors decode
            as well.
    """
    dataset = blocks.map_batches(
        PartActor,
        batch_size=None,
        batch_format="numpy",
        fn_constructor_kwargs=arguments,
        compute=ActorPoolStrategy(size=min(config.num_workers, at_most)),
        num_cpus=config.cpus_per_worker,
        num_gpus=gpus,
        memory=memory,
    )
    if config.decode_cpus is not None:
        options = dataset.context.execution_options
        cpus = config.decode_cpus + config.num_workers * config.cpus_per_worker
        options.resource_limits = options.resource_limits.copy(cpu=cpus)
    return dataset


def _check_room(folder: Path, config: ExtractionConfig) -> int:
    """Return the GPUs of an actor; refuse what would wait for ever, or write where nobody reads.

    Raises:
        ConfigError: There are too few CPUs or GPUs, or a machine does not see the folder that is written to.
    """
    has = ray.cluster_resources()
    cpus, wanted = int(has.get("CPU", 0)), config.num_workers * config.cpus_per_worker
    if wanted >= cpus:
        raise ConfigError(
            f"cluster.num_workers={config.num_workers} with {config.cpus_per_worker} CPUs each leaves none of the "
            f"{cpus} CPUs of this Ray for decoding; take fewer workers, or cluster.num_workers=0"
        )
    gpus = int(has.get("GPU", 0))
    if config.use_gpu and gpus < config.num_workers:
        raise ConfigError(
            f"cluster.use_gpu=true with cluster.num_workers={config.num_workers} needs as many GPUs, this Ray has "
            f"{gpus}; take fewer workers, or leave use_gpu out"
        )
    if blind := machines_without(folder):
        raise ConfigError(
            f"{folder} must lie on storage that every machine of the cluster sees; {', '.join(blind)} do not see it"
        )
    return int(config.use_gpu is not False and gpus >= config.num_workers)
