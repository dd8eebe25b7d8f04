"""A run on a Ray cluster of several nodes, all on this machine, of which some go and come; see ``test_nodes.py``.

``nodes_run.py RUN FOLDER``: trains the run of the JSON file RUN on two nodes for training beside one that only decodes.
Its driver acts when a step is reached: kills a worker, takes a node away, adds another. The processes that train note
their clips below FOLDER (``killing.py``).
"""

import json
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

from tats_ray.cluster import train
from tats_ray.cluster.runtime import _on_loopback, start_ray
from tats_ray.config.run import TrainRun
from tats_ray.driver import conduct

SCRIPT = Path(__file__).parents[1] / "killing.py"
KILL_AT, REMOVE_AT, ADD_AT, GROWN_BY = 5, 9, 11, 13
STORE = 150 * 2**20
TRAINER = {"num_cpus": 2, "object_store_memory": STORE}  # a worker takes both
DECODER = {"num_cpus": 1, "object_store_memory": STORE}
SECONDS = 300


def main(path: Path, folder: Path) -> None:
    """Train, with everything that happens to the cluster meanwhile."""
    train.RESIZE_SECONDS = 1.0
    cluster = Cluster(head_node_args={"num_cpus": 0, "object_store_memory": STORE})
    nodes = [cluster.add_node(**TRAINER) for _ in range(2)]
    decoder = cluster.add_node(**DECODER)
    (folder / "decoder").write_text(decoder.node_id)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        start_ray()

        def noting(config: dict[str, Any]) -> None:
            """Runs in a worker's process: notes its clips, its node and its process, and waits for what is to come."""
            watch(folder)
            train._worker(config)  # of that process, whose own it is: only this one has another in its place

        train._worker = noting
        threading.Thread(target=happen, args=(cluster, nodes, folder), daemon=True).start()
        conduct(TrainRun.model_validate_json(path.read_text()), train.run_on_ray, check=train.check_cluster)
    finally:
        ray.shutdown()
        cluster.shutdown()


def watch(folder: Path) -> None:
    """In a worker: write down each step with process and node, and wait at the steps at which something happens."""
    from tats_ray.cluster import dataset
    from tats_ray.methods.masked_autoencoder import MaskedAutoencoding

    runpy.run_path(str(SCRIPT))["arm"](None, folder)
    train_step, decode_rows = MaskedAutoencoding.train_step, dataset.decode_rows

    def decode_noting(table: pa.Table, **keywords: Any) -> dict[str, np.ndarray]:
        """Runs in a task of Ray Data."""
        (folder / f"decoded_on_{ray.get_runtime_context().get_node_id()}").touch()
        return decode_rows(table, **keywords)

    def waiting(self: Any, batches: Any, *, step: int, **rest: Any) -> None:
        workers = ray.train.get_context().get_world_size()
        me = {"pid": os.getpid(), "node": ray.get_runtime_context().get_node_id(), "workers": workers}
        (folder / f"at_{step}_{os.getpid()}.json").write_text(json.dumps(me))
        until = time.monotonic() + SECONDS
        while time.monotonic() < until and (
            (step in (KILL_AT, REMOVE_AT, ADD_AT) and not (folder / f"happened_{step}").exists())
            or (step == GROWN_BY and workers == 1)  # until Ray ends this group for a larger one
        ):
            time.sleep(0.05)
        train_step(self, batches, step=step, **rest)

    MaskedAutoencoding.train_step = waiting  # type: ignore[method-assign]
    dataset.decode_rows = decode_noting


def happen(cluster: Cluster, nodes: list[Any], folder: Path) -> None:
    """In the driver's process: kill a worker, take a node away, add another."""
    victim = reached(folder, KILL_AT, workers=2)[0]
    (folder / f"happened_{KILL_AT}").touch()
    os.kill(victim["pid"], signal.SIGKILL)
    mine = ray.get_runtime_context().get_node_id()  # whose loss would end this driver
    lost = next(note for note in reached(folder, REMOVE_AT, workers=2) if note["node"] != mine)
    (node,) = (node for node in nodes if node.node_id == lost["node"])
    (folder / f"happened_{REMOVE_AT}").touch()
    cluster.remove_node(node, allow_graceful=False)
    reached(folder, ADD_AT, workers=1)
    cluster._shutdown_at_exit = False  # by signals, which only the main thread may take; cluster.shutdown() will do
    cluster.add_node(**TRAINER)
    (folder / f"happened_{ADD_AT}").touch()


def reached(folder: Path, step: int, *, workers: int) -> list[dict[str, Any]]:
    """Wait until so many workers have come to a step."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        notes = [json.loads(path.read_text() or "{}") for path in sorted(folder.glob(f"at_{step}_*.json"))]
        found = [note for note in notes if note.get("workers") == workers]
        if len(found) >= workers:
            return found
        time.sleep(0.1)
    raise TimeoutError(f"nobody came to step {step}")


if __name__ == "__main__":
    with _on_loopback():
        main(Path(sys.argv[1]), Path(sys.argv[2]))
