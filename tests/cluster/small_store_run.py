"""Clips of 128 frames through a Ray whose object store holds few of them; see ``test_small_store.py``.

``small_store_run.py FOLDER``: streams eight epochs of the videos below FOLDER, and leaves in ``found.json`` what the
object store did. Every decoding is noted by a line with the video's name in ``decoded``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from tats_ray.cluster import dataset
from tats_ray.cluster.runtime import start_ray
from tats_ray.data.clips import ClipConfig
from tats_ray.data.listing import list_sources
from tats_ray.data.loader import ShareSpec
from tats_ray.data.manifest import Manifest
from tats_ray.data.probe import probe_record

CLIP = ClipConfig(num_frames=128, frame_stride=1, crop_size=64)  # 1.5 MiB
STEPS, BATCH = 48, 4


def main(folder: Path) -> None:
    """Stream, and count."""
    start_ray(num_cpus=4)
    note_decoding(folder / "decoded")
    manifest = Manifest.of([probe_record(source, label=None) for source, _ in list_sources(folder)])
    spec = ShareSpec(clip=CLIP, seed=0, steps=range(STEPS), global_batch=BATCH, micro_batch=BATCH)
    clips, failures, capacity = 0, 0, ray.cluster_resources()["object_store_memory"]
    for share in dataset.ray_shares(manifest, spec, clips_per_block=None, decode_cpus=None):
        clips += sum(len(batch) for batch in share.batches)
        failures += len(share.failures)
    store = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address)).store_stats
    found = {
        "clips": clips,
        "failures": failures,
        "capacity": capacity,
        "spilled": store.spilled_bytes_total,
    }
    ray.shutdown()
    (folder / "found.json").write_text(json.dumps(found))


def note_decoding(file: Path) -> None:
    """Have every task of Ray Data write down what it decodes."""
    decode_rows = dataset.decode_rows

    def noting(table: pa.Table, **keywords: Any) -> dict[str, np.ndarray]:
        """Runs in a task."""
        from tats_ray.cluster import decode_task

        plain = decode_task._decoder
        decode_task._decoder = lambda *limits: _noted(plain(*limits), file)
        try:
            return decode_rows(table, **keywords)
        finally:
            decode_task._decoder = plain

    dataset.decode_rows = noting


def _noted(decoder: Any, file: Path) -> Any:
    def decode(source: Any, *given: Any, **more: Any) -> Any:
        with file.open("a") as notes:
            notes.write(f"{source.name}\n")
        return decoder(source, *given, **more)

    return decode


if __name__ == "__main__":
    main(Path(sys.argv[1]))
