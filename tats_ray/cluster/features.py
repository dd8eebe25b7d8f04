"""Ray Data: the missing parts of an extraction in, files out; tasks decode, actors that hold the encoder encode.

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
from tats_ray.probing.config import ExtractionConfig
from tats_ray.probing.decoding import ViewLayout
from tats_ray.probing.features import encode_part
from tats_ray.probing.frozen import WEIGHTS, FrozenEncoder
from tats_ray.probing.parts import Extraction, FeatureError, Part


def extract_on_ray(
    frozen: FrozenEncoder,
    manifest: Manifest,
    extraction: Extraction,
    *,
    config: ExtractionConfig,
    advance: Callable[[int], object] = lambda videos: None,
) -> None:
    """Make the missing parts on Ray.

    Args:
        frozen: The encoder; actors load it from its checkpoint.
        manifest: The videos.
        extraction: What to make.
        config: How many actors, on what.
        advance: Told how many more videos are done.

    Raises:
        ConfigError: The cluster has too little for the actors, or does not see the checkpoint's folder.
        FeatureError: A part was not made.
    """
    missing = extraction.missing()
    advance(extraction.num_videos - sum(len(part.rows) for part in missing))
    if not missing:
        return
    start_for_actors()
    gpus = check_room(extraction.readings[0].folder.parent, config)
    dataset = in_actors(
        decoded_blocks(manifest, missing, layout=extraction.layout, guard=extraction.guard),
        EncodeClips,
        {"extraction": extraction, "device": "cuda" if gpus else "cpu"},
        config=config,
        gpus=gpus,
        at_most=len(missing),
        memory=(extraction.checkpoint / f"{WEIGHTS}.safetensors").stat().st_size,
    )
    for done in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        advance(int(cast("dict[str, np.ndarray]", done)["videos"].sum()))
    if left := extraction.missing():
        raise FeatureError(
            f"{len(left)} of {len(extraction.parts())} parts were not written to "
            f"{extraction.readings[0].folder.parent}; the same command makes the missing ones"
        )


def start_for_actors() -> None:
    """Start or join Ray without a warning on every terminal.

    Ray Data starts its actors with arguments in the object store, and Ray's core warns of that.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    start_ray()


def decoded_blocks(
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


def in_actors(
    blocks: ray.data.Dataset,
    actor: type,
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
        actor: Their class; called with one block after another.
        arguments: It is made with.
        config: How many actors, on what.
        gpus: Of each.
        at_most: Actors that there is work for.
        memory: Bytes that the weights take. Without a difference in what is asked for, Ray would have the actors decode
            as well.
    """
    dataset = blocks.map_batches(
        actor,
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


class EncodeClips:
    """An actor: loads the encoder once, then encodes and writes one part after another."""

    def __init__(self, *, extraction: Extraction, device: str) -> None:
        self._extraction = extraction
        self._parts = {part.number: part for part in extraction.parts()}
        self._frozen = FrozenEncoder.load(Path(extraction.checkpoint), device=torch.device(device))

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Encode the rows of one part; return how many videos that were."""
        (number,) = set(rows["part"].tolist())
        part, ids = self._parts[number], rows["id"].tolist()
        if len(ids) != len(part.rows):
            raise FeatureError(f"part {number} came with {len(ids)} of its {len(part.rows)} videos")
        encode_part(self._frozen, self._extraction, part, ids, views_of(rows))
        return {"part": np.array([number]), "videos": np.array([len(ids)])}


def check_room(folder: Path, config: ExtractionConfig) -> int:
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
