"""How workers find each other: by a port of the first one's machine, or on a Ray of one machine by a file.

torch's store for it (``TCPStore``) listens on all interfaces, whatever address it is given.
"""

import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

LOOPBACK = "127.0.0.1"


def torch_config() -> TorchConfig:
    """Return how workers meet on the Ray that is joined; where that listens on loopback only, so do they."""
    return LoopbackConfig() if ray.util.get_node_ip_address() == LOOPBACK else TorchConfig()


@dataclass
class LoopbackConfig(TorchConfig):
    """Workers of one machine, which meet in a file."""

    @property
    def backend_cls(self) -> type:
        """What sets them up."""
        return _LoopbackBackend


class _LoopbackBackend(_TorchBackend):
    _file: str | None = None
    """Where the workers meet; none before they do, or where they were lost before it."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        on_gpu = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        self._file = worker_group.execute_single(0, _new_file)
        worker_group.execute(_set_torch_distributed_env_vars)
        worker_group.execute(_stay_on_loopback)
        begun = [
            worker_group.execute_single_async(
                rank,
                _setup_torch_process_group,
                backend=backend_config.backend or ("nccl" if on_gpu else "gloo"),
                world_rank=rank,
                world_size=len(worker_group),
                init_method=f"file://{self._file}",
                timeout_s=backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]
        ray.get(begun)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        try:
            super().on_shutdown(worker_group, backend_config)
        finally:  # on this machine too; torch removes it only where all workers leave in peace
            if self._file is not None:
                Path(self._file).unlink(missing_ok=True)


def _new_file() -> str:
    """Return an empty file, which is good for one group."""
    number, name = tempfile.mkstemp(prefix=f"tats_ray_workers_{os.getpid()}_")
    os.close(number)
    return name


def _stay_on_loopback() -> None:
    """Name the interface for what workers tell each other: by default it is that of the machine's own name."""
    found = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if found else ():
        os.environ.setdefault(variable, min(found))
