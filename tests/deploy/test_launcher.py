"""cluster.yaml: by the schema and the checks of Ray's own launcher, none of which asks a cloud."""

import re
import shlex
from typing import Any

from ray.autoscaler._private.util import fillout_defaults, validate_config


def test_rays_launcher_takes_it(launcher: dict[str, Any]) -> None:
    validate_config(fillout_defaults(launcher))


def test_images_have_the_clients_ray_and_python(launcher: dict[str, Any], own_tag: str) -> None:
    images = [launcher["docker"]["head_image"], launcher["docker"]["worker_image"]]
    images += [one["docker"]["worker_image"] for one in launcher["available_node_types"].values() if "docker" in one]
    assert [image.rpartition(":")[2] for image in images] == [own_tag + device for device in ("cpu", "cuda", "cpu")]


def test_the_head_takes_no_work(launcher: dict[str, Any]) -> None:
    assert launcher["available_node_types"][launcher["head_node_type"]]["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in shlex.split(launcher["head_start_ray_commands"][-1])


def test_a_token_is_asked_for_and_the_job_server_stays_on_loopback(launcher: dict[str, Any]) -> None:
    starts = [launcher[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker")]
    for command in starts:
        assert command.startswith("RAY_AUTH_MODE=token ray start ")
        assert "--disable-usage-stats" in command
        assert "--dashboard-host" not in command  # Ray's own choice is 127.0.0.1
    assert launcher["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}


def test_workers_are_as_many_as_runs_are_checked_against(launcher: dict[str, Any]) -> None:
    workers = {k: v for k, v in launcher["available_node_types"].items() if k != launcher["head_node_type"]}
    assert all(one["min_workers"] == one["max_workers"] > 0 for one in workers.values())
    assert launcher["max_workers"] == sum(one["max_workers"] for one in workers.values())


def test_what_must_be_filled_in_is_marked(launcher: dict[str, Any]) -> None:
    text = str(launcher)
    assert text.count("REPLACE_ME") == 4
    assert not re.search(r"AKIA|ssh_private_key|aws_secret", text)
