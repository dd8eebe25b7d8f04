"""Ray Data: the missing parts of an encoding in, Parquet out; tasks decode, actors that hold the tokenizer encode.

As in ``cluster/features.py`` a part is one block from end to end, written whole or not at all.
"""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch

from tats_ray.cluster.features import check_room, decoded_blocks, in_actors, start_for_actors
from tats_ray.cluster.view_task import views_of
from tats_ray.config.tokenizer_run import WEIGHTS
from tats_ray.data.code_rows import CodesError
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.encoding import Encoding, FrozenTokenizer, encode_part
from tats_ray.probing.config import ExtractionConfig


def encode_on_ray(
    frozen: FrozenTokenizer,
    manifest: Manifest,
    encoding: Encoding,
    *,
    config: ExtractionConfig,
    advance: Callable[[int], object] = lambda videos: None,
) -> None:
    """Make the missing parts on Ray.

    Args:
        frozen: The tokenizer; actors load it from its checkpoint.
        manifest: The videos.
        encoding: What to make.
        config: How many actors, on what.
        advance: Told how many more videos are done.

    Raises:
        ConfigError: The cluster has too little for the actors, or does not see the folder.
        CodesError: A part was not made.
    """
    missing = encoding.missing()
    advance(encoding.num_videos - sum(len(part.rows) for part in missing))
    if not missing:
        return
    start_for_actors()
    gpus = check_room(encoding.folder, config)
    dataset = in_actors(
        decoded_blocks(manifest, missing, layout=encoding.layout, guard=encoding.guard),
        EncodeParts,
        {"encoding": encoding, "manifest": manifest, "device": "cuda" if gpus else "cpu"},
        config=config,
        gpus=gpus,
        at_most=len(missing),
        memory=(encoding.checkpoint / f"{WEIGHTS}.safetensors").stat().st_size,
    )
    for done in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        advance(int(cast("dict[str, np.ndarray]", done)["videos"].sum()))
    if left := encoding.missing():
        raise CodesError(
            f"{len(left)} of {len(encoding.parts())} parts were not written to {encoding.folder}; the same command "
            f"makes the missing ones"
        )


class EncodeParts:
    """An actor: loads the tokenizer once, then encodes and writes one part after another."""

    def __init__(self, *, encoding: Encoding, manifest: Manifest, device: str) -> None:
        self._encoding = encoding
        self._manifest = manifest
        self._parts = {part.number: part for part in encoding.parts()}
        self._frozen = FrozenTokenizer.load(Path(encoding.checkpoint), device=torch.device(device))

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Encode the rows of one part; return how many videos that were."""
        (number,) = set(rows["part"].tolist())
        part = self._parts[number]
        records: list[VideoRecord] = [self._manifest.record(row) for row in part.rows]
        if [record.id for record in records] != rows["id"].tolist():
            raise CodesError(f"part {number} came with other videos than its {len(records)}")
        encode_part(self._frozen, self._encoding, part, records, views_of(rows))
        return {"part": np.array([number]), "videos": np.array([len(records)])}
