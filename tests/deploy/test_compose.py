"""compose.yaml: by the compose specification, with secrets from outside and ports on this machine only."""

import json
import re
import shlex
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import check_jsonschema.builtin_schemas
import jsonschema
import pytest

SECRET = re.compile(r"password|secret|token", re.IGNORECASE)
MUST_BE_SET = re.compile(r"^\$\{([A-Z0-9_]+):\?[^}]+\}$")


def own_services(compose: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((name, one) for name, one in compose["services"].items() if "build" in one)


def test_it_is_valid_by_the_compose_specification(compose: dict[str, Any]) -> None:
    schema = json.loads((files(check_jsonschema.builtin_schemas) / "vendor" / "compose-spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(compose)


def test_ports_are_published_on_this_machine_only(compose: dict[str, Any]) -> None:
    ports = {name: one.get("ports", []) for name, one in compose["services"].items()}
    assert all(port.startswith("127.0.0.1:") for published in ports.values() for port in published)
    assert not ports["postgres"]
    assert not ports["store"]
    assert not any(one.get("network_mode") == "host" for one in compose["services"].values())


def test_every_secret_comes_from_outside_and_must_be_set(compose: dict[str, Any], deploy: Path) -> None:
    named = set()
    for service in compose["services"].values():
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key):
                found = MUST_BE_SET.match(value)
                assert found, f"{key}: {value}"
                named.add(found[1])
    example = dict(
        line.split("=", 1) for line in (deploy / "example.env").read_text().splitlines() if not line.startswith("#")
    )
    assert example == dict.fromkeys(named, "")
    assert ".env" in (deploy.parent / ".gitignore").read_text().split()


def test_images_are_pinned_and_ours_has_the_clients_ray(compose: dict[str, Any], own_tag: str) -> None:
    for one in compose["services"].values():
        assert re.fullmatch(r"[\w./-]+:v?\d[\w.-]*", one["image"]), one["image"]
    for _, one in own_services(compose):
        assert one["image"] == f"tats-ray:{own_tag}cpu"
        assert (Path("deploy") / one["build"]["context"] / one["build"]["dockerfile"]) == Path(
            "deploy/../deploy/Dockerfile"
        )


def test_ray_asks_for_a_token_and_waits_for_checkpoints(compose: dict[str, Any]) -> None:
    head = compose["services"]["ray-head"]
    assert head["environment"]["RAY_AUTH_MODE"] == "token"
    assert "--disable-usage-stats" in head["command"]
    (minutes,) = re.fullmatch(r"(\d+)m", head["stop_grace_period"]).groups()
    assert float(head["environment"]["RAY_JOB_STOP_WAIT_TIME_S"]) < 60 * int(minutes)


def test_the_mlflow_server_names_its_hosts_and_keeps_the_password_out_of_its_command(compose: dict[str, Any]) -> None:
    service = compose["services"]["mlflow"]
    command = dict(one[2:].partition("=")[::2] for one in service["command"] if one.startswith("--"))
    assert set(command["allowed-hosts"].split(",")) == {"mlflow:5000", "localhost:5000", "127.0.0.1:5000"}
    assert "*" not in command["cors-allowed-origins"]
    assert "disable-security-middleware" not in command
    assert not re.search(r"://[^/]*:[^/]*@", shlex.join(service["command"]))
    assert command["backend-store-uri"].startswith("postgresql+psycopg2://mlflow@postgres:")
    assert command["artifacts-destination"].startswith("s3://")


def test_what_is_mounted_from_here_exists(compose: dict[str, Any], deploy: Path) -> None:
    mounted = [v.split(":")[0] for one in compose["services"].values() for v in one.get("volumes", ())]
    for source in mounted:
        if source.startswith("."):
            assert (deploy / source).is_file(), source
        else:
            assert source in compose["volumes"], source


@pytest.mark.parametrize("service", ["prometheus", "grafana"])
def test_monitoring_is_only_there_when_asked_for(compose: dict[str, Any], service: str) -> None:
    assert compose["services"][service]["profiles"] == ["monitoring"]
