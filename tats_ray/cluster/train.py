"""A run on Ray Train: checked against the cluster, then a TorchTrainer whose workers each live a worker's life."""

import os
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
import torch
from ray.exceptions import RayError, RayTaskError
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from tats_ray.cluster.context import Board, LostWorkerError, RayContext, make_board
from tats_ray.cluster.dataset import ray_shares
from tats_ray.cluster.rendezvous import torch_config
from tats_ray.cluster.runtime import machines_without, node_resources, ray_storage, start_ray
from tats_ray.config.overrides import ConfigError
from tats_ray.config.run import ClusterConfig, Run
from tats_ray.copies import where
from tats_ray.driver import RunFailedError
from tats_ray.interruption import Stopped, stop_asked
from tats_ray.mirror import write_text
from tats_ray.run_folder import writing
from tats_ray.tracking.progress import ProgressBar, ProgressState
from tats_ray.tracking.store import without_credentials
from tats_ray.training.loop import DataLossError
from tats_ray.training.state import CheckpointError
from tats_ray.training.stepper import NotFiniteError
from tats_ray.worker import Launch, SharesOf, own_decoders, run_training

POLL_SECONDS = 0.5
RESIZE_SECONDS = 60.0
"""How often an elastic run looks whether there is room for more workers; to take it costs a restart."""
FINAL_ERRORS = (CheckpointError, DataLossError, NotFiniteError)


def run_on_ray(launch: Launch) -> None:
    """Train on Ray, locally or on the cluster that RAY_ADDRESS names; show progress until the end.

    Raises:
        ConfigError: The cluster is too small; Ray would wait for ever.
    """
    start_ray()
    board = make_board()
    with _bar(board):
        fit(launch, board)


def fit(launch: Launch, board: Board) -> None:
    """Train on a Ray that runs already. Lost workers are replaced; an error of a worker's own ends the run.

    Raises:
        ConfigError: The cluster is too small; Ray would wait for ever.
        Stopped: This process was asked to stop, and the workers have left at a checkpoint.
    """
    use_gpu = check_fits(launch.run.cluster, node_resources())
    with _stop_passed_on(board):
        try:
            make_trainer(launch, board, use_gpu=use_gpu).fit()
        except TrainingFailedError as error:
            raise _failure(board) or error from error
    failure = _failure(board)  # of a worker that was tried again before Ray could be told not to
    if failure is not None:
        raise failure


class _Trainer(TorchTrainer):
    """Leaves Ctrl-C to the driver: Ray would end the workers at once, and this process as if all were well."""

    def _register_sigint_handler(self, controller: object) -> None:
        pass


def make_trainer(launch: Launch, board: Board, *, use_gpu: bool) -> TorchTrainer:
    """Build the trainer of a run; its experiment folder is the run's folder."""
    cluster = launch.run.cluster
    return _Trainer(
        _worker,
        train_loop_config={"launch": launch, "board": board},
        torch_config=torch_config(),
        scaling_config=ScalingConfig(
            num_workers=cluster.num_workers
            if cluster.min_workers is None
            else (cluster.min_workers, cluster.num_workers),
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            name=launch.folder.name,
            **ray_storage(launch.folder.parent),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def check_cluster(run: Run) -> None:
    """Start or join Ray, and check that a run can train on it.

    Raises:
        ConfigError: There is no cluster, it is too small (Ray would wait for ever), or some of its machines do not see
            the results: what is written there would be lost to all others.
    """
    start_ray()
    check_fits(run.cluster, node_resources())
    with writing(run):
        blind = machines_without(run.root)
    if blind:
        raise ConfigError(
            f"results={run.results} is not seen by {', '.join(blind)}, and a worker there would write its checkpoints "
            f"where no other finds them; give results= or TATS_RESULTS a folder that all machines of the cluster share "
            f"(NFS, a volume that is mounted on all)"
        )


def check_fits(cluster: ClusterConfig, nodes: Sequence[Mapping[str, float]]) -> bool:
    """Return whether workers take a GPU each.

    Args:
        cluster: What the run asks for.
        nodes: The resources of each machine; a worker lies on one.

    Raises:
        ConfigError: Workers and one decode task do not fit on the cluster at once.
    """
    name = "num_workers" if cluster.min_workers is None else "min_workers"
    least = cluster.min_workers or cluster.num_workers
    with_gpu = _room(cluster, nodes, gpus_per_worker=1) >= least
    if cluster.use_gpu is not True and not with_gpu and _room(cluster, nodes, gpus_per_worker=0) < least:
        have = " + ".join(f"{node.get('CPU', 0.0):g}" for node in nodes)
        raise ConfigError(
            f"cluster.{name}={least} with cluster.cpus_per_worker={cluster.cpus_per_worker} needs "
            f"{least * cluster.cpus_per_worker + 1} CPUs with one for decoding, each worker's on one "
            f"machine, and Ray has {have}; use fewer or smaller workers, or add machines"
        )
    if cluster.use_gpu and not with_gpu:
        have = " + ".join(f"{node.get('GPU', 0.0):g} GPUs with {node.get('CPU', 0.0):g} CPUs" for node in nodes)
        raise ConfigError(
            f"cluster.use_gpu=true with cluster.{name}={least} needs {least} GPUs, "
            f"each beside cluster.cpus_per_worker={cluster.cpus_per_worker}, and one CPU for decoding; Ray has {have}; "
            f"use fewer workers, or cluster.use_gpu=null"
        )
    return with_gpu if cluster.use_gpu is None else cluster.use_gpu


def _room(cluster: ClusterConfig, nodes: Sequence[Mapping[str, float]], *, gpus_per_worker: int) -> int:
    """Return how many workers fit beside a decode task on the best machine for it, of those that a run may have."""

    def workers(node: Mapping[str, float], cpus: float) -> int:
        by_gpu = int(node.get("GPU", 0.0)) if gpus_per_worker else cluster.num_workers
        return min(int(cpus // cluster.cpus_per_worker), by_gpu)

    def beside(decoder: int) -> int:
        free = [node.get("CPU", 0.0) - (number == decoder) for number, node in enumerate(nodes)]
        return sum(workers(node, cpus) for node, cpus in zip(nodes, free, strict=True)) if free[decoder] >= 0 else -1

    return max((beside(decoder) for decoder in range(len(nodes))), default=-1)


def _worker(config: dict[str, Any]) -> None:
    launch: Launch = config["launch"]
    cluster = launch.run.cluster
    torch.set_num_threads(cluster.cpus_per_worker)
    board: Board = config["board"]
    if _failure(board) is not None:  # Ray replaces failed workers as if they were lost; what was wrong would recur
        return
    context = RayContext(board, run=f"{launch.run.name}-{launch.folder.name}")
    try:
        with _decoders(launch.run, workers=context.world_size) as shares_of:
            run_training(launch, context, shares_of)
    except Stopped as stopped:  # no failure to Ray
        ray.get(board.fail.remote(stopped))
    except Exception as error:
        log = launch.folder / f"error.worker_{context.rank}.log"
        text = without_credentials(traceback.format_exc())  # Ray shows the driver a snippet of it
        write_text(log, text, insist=False)
        if not _comes_from_a_loss(error):
            ray.get(board.fail.remote(_told(error, log)))
        raise


@contextmanager
def _decoders(run: Run, *, workers: int) -> Iterator[SharesOf]:
    """Decode in tasks of Ray Data or, where frames are kept or no CPU is left, in children of this worker.

    A task runs wherever there is room and leaves nothing behind: a video's frames would be in another process than its
    next clip. The children of a worker keep them, and take the CPUs that tasks would have taken. An elastic group takes
    as many workers as fit, and a cluster may have lost a machine since the run was checked: with no CPU left for a
    task, it would wait for ever.
    """
    cluster = run.cluster
    decode_cpus = None if cluster.decode_cpus is None else cluster.decode_cpus / workers
    if run.data.cache == "none" and _room(cluster, node_resources(), gpus_per_worker=0) >= workers:
        yield partial(ray_shares, clips_per_block=cluster.clips_per_block, decode_cpus=decode_cpus, guard=run.data)
        return
    on_this_node = ray.train.get_context().get_local_world_size()
    threads = (os.cpu_count() or 1) // on_this_node if decode_cpus is None else int(decode_cpus)
    with own_decoders(run, threads=max(1, threads)) as shares_of:
        yield shares_of


def _comes_from_a_loss(error: Exception) -> bool:
    """Say whether a worker, a task or a machine went away; what our own code raises in a task is a RayTaskError."""
    return isinstance(error, LostWorkerError) or (isinstance(error, RayError) and not isinstance(error, RayTaskError))


def _told(error: Exception, log: Path) -> Exception:
    """Return what the driver raises; an exception of somebody else's may not survive its journey."""
    if isinstance(error, FINAL_ERRORS):
        return error
    lines = str(error).strip().splitlines()
    return RunFailedError(f"{type(error).__name__}: {lines[-1] if lines else ''} (traceback: {where(log)})")


def _failure(board: Board) -> BaseException | None:
    return cast("Any", ray.get(board.read_failure.remote()))


@contextmanager
def _stop_passed_on(board: Board) -> Iterator[None]:
    """Tell the workers when this process is asked to stop."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if stop_asked(wait=POLL_SECONDS):
                board.ask_to_stop.remote()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()


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
