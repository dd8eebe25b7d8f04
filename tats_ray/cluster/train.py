"""A run on Ray Train: checked against the cluster, then a TorchTrainer whose workers each live a worker's life."""

import signal
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import ray
import ray.train
import torch
from ray.exceptions import RayError
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from tats_ray.cluster.context import Board, ProgressBoard, RayContext
from tats_ray.cluster.dataset import ray_shares
from tats_ray.cluster.runtime import start_ray
from tats_ray.config.overrides import ConfigError
from tats_ray.config.run import ClusterConfig
from tats_ray.tracking.progress import ProgressBar, ProgressState
from tats_ray.training.loop import DataLossError
from tats_ray.training.state import CheckpointError
from tats_ray.training.stepper import NotFiniteError
from tats_ray.worker import Launch, run_training

POLL_SECONDS = 0.5
FINAL_ERRORS = (CheckpointError, DataLossError, NotFiniteError)


def run_on_ray(launch: Launch) -> None:
    """Train on Ray, locally or on the cluster that RAY_ADDRESS names; show progress until the end.

    Raises:
        ConfigError: The cluster is too small; Ray would wait for ever.
    """
    start_ray()
    board: Board = ProgressBoard.remote()
    with _bar(board):
        fit(launch, board)


def fit(launch: Launch, board: Board) -> None:
    """Train on a Ray that runs already.

    Raises:
        ConfigError: The cluster is too small; Ray would wait for ever.
    """
    use_gpu = check_fits(launch.run.cluster, ray.cluster_resources())
    with _interruptible():
        make_trainer(launch, board, use_gpu=use_gpu).fit()
    failure: Exception | None = cast("Any", ray.get(board.read_failure.remote()))
    if failure is not None:
        raise failure


def make_trainer(launch: Launch, board: Board, *, use_gpu: bool) -> TorchTrainer:
    """Build the trainer of a run; its experiment folder is the run's folder."""
    cluster = launch.run.cluster
    return TorchTrainer(
        _worker,
        train_loop_config={"launch": launch, "board": board},
        scaling_config=ScalingConfig(
            num_workers=cluster.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            name=launch.folder.name,
            storage_path=str(launch.folder.parent),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def check_fits(cluster: ClusterConfig, resources: Mapping[str, float]) -> bool:
    """Return whether workers take a GPU each.

    Raises:
        ConfigError: Workers and one decode task do not fit on the cluster at once.
    """
    have, need = resources.get("CPU", 0.0), cluster.num_workers * cluster.cpus_per_worker + 1
    if need > have:
        raise ConfigError(
            f"cluster.num_workers={cluster.num_workers} with cluster.cpus_per_worker={cluster.cpus_per_worker} needs "
            f"{need} CPUs with one for decoding, and Ray has {have:g}; use fewer workers or add machines"
        )
    gpus = resources.get("GPU", 0.0)
    if cluster.use_gpu and gpus < cluster.num_workers:
        raise ConfigError(
            f"cluster.use_gpu=true with cluster.num_workers={cluster.num_workers} needs {cluster.num_workers} GPUs, "
            f"and Ray has {gpus:g}; use fewer workers, or cluster.use_gpu=null"
        )
    return gpus >= cluster.num_workers if cluster.use_gpu is None else cluster.use_gpu


def _worker(config: dict[str, Any]) -> None:
    launch: Launch = config["launch"]
    cluster = launch.run.cluster
    torch.set_num_threads(cluster.cpus_per_worker)
    decode_cpus = None if cluster.decode_cpus is None else cluster.decode_cpus / cluster.num_workers
    shares_of = partial(ray_shares, clips_per_block=cluster.clips_per_block, decode_cpus=decode_cpus)
    context = RayContext(config["board"])
    try:
        run_training(launch, context, shares_of)
    except FINAL_ERRORS as error:  # raised by all workers alike; raising it here would only make Ray try again
        ray.get(config["board"].fail.remote(error))
    except Exception:
        # Ray shows the driver a snippet of it; the whole is kept where the user is told to look.
        (launch.folder / f"error.worker_{context.rank}.log").write_text(traceback.format_exc())
        raise


@contextmanager
def _interruptible() -> Iterator[None]:
    """Give Ctrl-C its meaning back: Ray Train takes the signal for itself, stops the workers, leaves by SystemExit."""
    if threading.current_thread() is not threading.main_thread():  # Ray leaves the signal alone there
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _bar(board: Board) -> Iterator[None]:
    """Show the board's state until the block ends."""
    over = threading.Event()

    def poll() -> None:
        while not over.wait(POLL_SECONDS):
            show()

    def show() -> None:
        try:
            state: ProgressState | None = cast("Any", ray.get(board.read.remote(), timeout=10))
        except RayError:  # busy or dying: the bar waits, and what is wrong the run itself tells
            return
        if state is not None:
            bar.update(state)

    with ProgressBar() as bar:
        watcher = threading.Thread(target=poll, daemon=True)
        watcher.start()
        try:
            yield
            show()
        finally:
            over.set()
            watcher.join(timeout=POLL_SECONDS * 4)
