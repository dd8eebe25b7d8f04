"""Starting Ray the same way everywhere: a quiet local cluster, or the one that RAY_ADDRESS names."""

import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.data import DataContext
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tats_ray.config.error import ConfigError
from tats_ray.copies import MirrorError, store_of
from tats_ray.mirror import exists, remove, write_text

CONNECT_SECONDS = 5.0
"""Until a cluster's head must take a connection; Ray itself would wait for two minutes."""

SPARE_CPUS = 2
"""CPUs a local Ray believes in beyond the cores; with fewer, cores stay idle while a decode task is scheduled."""

LOCAL_DEFAULTS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # how long a report waits; Ray's 2 seconds spare a busy cluster
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one machine is not pre-empted by a part of itself
}
DEFAULTS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # with its own, Tune returns from Ctrl-C as if all were well
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anyone unless the user asks for it
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables; ours says the same once
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files of what MLflow has
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # prints of a worker would appear twice
}


def start_ray(num_cpus: int | None = None) -> None:
    """Connect to the cluster of RAY_ADDRESS, or start a local Ray; do nothing where Ray runs already.

    A local Ray listens on the loopback interface only. Environment variables that the user has set keep their values.

    Args:
        num_cpus: CPUs of a local Ray; cores + 2 by default.

    Raises:
        ValueError: ``num_cpus`` is given for a cluster that runs already.
        ConfigError: The cluster of RAY_ADDRESS does not answer.
    """
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        if address and num_cpus is not None:
            raise ValueError(
                f"num_cpus={num_cpus} is for a local Ray, but RAY_ADDRESS={address}; leave one of them out"
            )
        if address:
            _expect_answer(address)
        for name, value in (DEFAULTS if address else DEFAULTS | LOCAL_DEFAULTS).items():
            os.environ.setdefault(name, value)
        cpus = num_cpus or _cores() + SPARE_CPUS
        local = {} if address else {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        if not address:  # a token is asked for, as Ray has it by default; only the line that says so is left out
            logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
        on_term = signal.getsignal(signal.SIGTERM)
        try:
            with nullcontext() if address else _on_loopback():
                ray.init(**local, logging_level=logging.WARNING, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise _no_cluster(address or "local", error) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_term)  # Ray's native code took it, to print a stack and abort
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that its bars are off
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have a Ray that is started in the block listen on the loopback interface only.

    Ray has a switch for it, which it sets on macOS and Windows; an address of 127.0.0.1 it would replace by another.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def node_resources() -> list[dict[str, float]]:
    """Return what each machine of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def machines_without(folder: Path) -> list[str]:
    """Return the addresses of the machines that do not see what this one writes into a folder."""
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    if not others:
        return []
    token = folder / f"seen_{uuid.uuid4().hex}" / "token"
    write_text(token, "")
    try:
        seen = ray.get([_sees.options(scheduling_strategy=on_node(node["NodeID"])).remote(token) for node in others])
    finally:
        remove(token.parent)
    return [node["NodeManagerAddress"] for node, found in zip(others, seen, strict=True) if not found]


@ray.remote(num_cpus=0)
def _sees(path: Path) -> bool:
    try:
        return exists(path)
    except MirrorError:
        return False


def ray_storage(folder: Path) -> dict[str, Any]:
    """Return what tells Ray to keep its own files in a folder, or in the store that it is a copy of."""
    store = store_of(folder)
    return (
        {"storage_path": str(folder)} if store is None else {"storage_filesystem": store[0], "storage_path": store[1]}
    )


def on_node(node_id: str) -> NodeAffinitySchedulingStrategy:
    """Return the strategy that keeps a task on one machine."""
    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def _expect_answer(address: str) -> None:
    """Ask the head for a connection; names such as ``auto`` are left to Ray, which knows at once.

    Raises:
        ConfigError: There is no answer.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"the Ray cluster of RAY_ADDRESS={address} does not answer ({error}); give the address that `ray start --head` "
        f"printed, or unset RAY_ADDRESS for a local Ray"
    )


def _cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
