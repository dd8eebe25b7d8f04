import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
import ray

from tats_ray.cluster import runtime
from tats_ray.cluster.runtime import machines_without, start_ray
from tats_ray.config.overrides import ConfigError


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "nowhere.invalid:6379", "host:port"])
def test_a_cluster_that_does_not_answer_is_told_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        address = address.format(port=closed.getsockname()[1])
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was asked, which takes two minutes"))
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=f"RAY_ADDRESS={address} does not answer .* unset RAY_ADDRESS"):
            start_ray()


@pytest.mark.ray
def test_machines_that_do_not_see_the_results_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machines_without(tmp_path) == []  # there is one machine
    (here,) = ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [here])
    monkeypatch.setattr(ray, "get_runtime_context", _Elsewhere)  # so that it is another machine that is asked
    assert machines_without(tmp_path / "new") == []
    monkeypatch.setattr(runtime, "write_text", lambda path, text: None)  # so that what is asked for is not to be found
    assert machines_without(tmp_path / "new") == [here["NodeManagerAddress"]]
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.ray
def test_a_local_ray_listens_on_the_loopback_interface_only() -> None:
    ray.get(ray.remote(num_cpus=0)(lambda: None).remote())  # a worker listens as well
    ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
    open_ports = set()
    for process in ours:
        with suppress(psutil.NoSuchProcess):  # an idle worker may go meanwhile
            listening = [one for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
            open_ports |= {(process.name(), one.laddr.ip) for one in listening}
    assert {name for name, _ in open_ports} >= {"gcs_server", "raylet"}
    assert {(name, ip) for name, ip in open_ports if not ip_address(ip.removeprefix("::ffff:")).is_loopback} == set()


class _Elsewhere:
    def get_node_id(self) -> str:
        return "another"
