"""Where the workers of a local Ray listen while they are joined."""

import ipaddress
import json
import os
import tempfile
from pathlib import Path

import psutil
import pytest
import ray.train
import torch
from ray.train import RunConfig, ScalingConfig

from tats_ray.cluster.rendezvous import LoopbackConfig, torch_config
from tats_ray.cluster.train import _Trainer

pytestmark = pytest.mark.ray


def meet(config: dict) -> None:
    rank = ray.train.get_context().get_world_rank()
    total = torch.tensor([rank + 1.0])
    torch.distributed.all_reduce(total)
    listening = [c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
    files = [str(path) for path in Path(tempfile.gettempdir()).glob(f"tats_ray_workers_{os.getpid()}_*")]
    found = {"total": total.item(), "listening": listening, "files": files}
    Path(config["folder"], f"{rank}.json").write_text(json.dumps(found))


def test_workers_of_a_local_ray_listen_on_loopback_only_and_leave_no_file(tmp_path: Path) -> None:
    config = torch_config()
    assert isinstance(config, LoopbackConfig)
    _Trainer(  # Ray's own would keep SIGINT for itself, also in the tests after this
        meet,
        train_loop_config={"folder": str(tmp_path)},
        torch_config=config,
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="meet", storage_path=str(tmp_path / "ray")),
    ).fit()
    files = []
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["total"] == 3
        assert found["listening"]
        addresses = {address.removeprefix("::ffff:") for address in found["listening"]}
        assert all(ipaddress.ip_address(address).is_loopback for address in addresses), addresses
        files += found["files"]
    assert len(files) == 1
    assert not Path(files[0]).exists()
