"""The Dockerfile: pinned, not root, and only with what the image needs."""

import fnmatch
import re
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def lines(deploy: Path) -> list[str]:
    joined = (deploy / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def test_bases_are_rays_of_the_pinned_version_for_cpu_and_cuda(
    lines: list[str], ray_version: str, own_tag: str
) -> None:
    python = own_tag.split("-")[-2]
    bases = dict(reversed(found.groups()) for line in lines if (found := re.match(r"FROM (\S+) AS (\w+)$", line)))
    assert set(bases) == {"cpu", "cuda"}
    assert bases["cpu"] == f"rayproject/ray:{ray_version}-{python}-cpu"
    assert re.fullmatch(rf"rayproject/ray:{re.escape(ray_version)}-{python}-cu1\d\d", bases["cuda"])
    assert "FROM ${DEVICE}" in lines
    assert lines[0] == "ARG DEVICE=cpu"


def test_it_ends_as_a_user_that_kubernetes_can_tell_from_root(lines: list[str]) -> None:
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users[-1] == "1000:100"


def test_versions_are_those_of_the_constraints(lines: list[str]) -> None:
    installs = [line for line in lines if "uv pip install" in line]
    with_dependencies, package = installs
    assert "--constraint constraints.txt" in with_dependencies
    assert "--no-deps" in package
    assert all("--no-cache" in line for line in installs)


def test_what_is_copied_exists_and_is_sent_to_the_daemon(lines: list[str], deploy: Path) -> None:
    ignore = (deploy / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore
    sent = {line[1:] for line in ignore if line.startswith("!")}
    copied = {source for line in lines if line.startswith("COPY ") for source in line.split()[2:-1]}
    assert copied == sent
    assert all((deploy.parent / source).exists() for source in copied)
    for wanted in ("pipelines", "tune_spaces", "tats_ray", "constraints.txt"):
        assert wanted in copied
    assert not any(fnmatch.fnmatch(".env", line) for line in sent)


def test_the_dependencies_are_a_layer_below_the_code(lines: list[str]) -> None:
    where = {line.split()[2]: number for number, line in enumerate(lines) if line.startswith("COPY ")}
    dependencies = next(number for number, line in enumerate(lines) if "--requirement pyproject.toml" in line)
    assert where["pyproject.toml"] < dependencies < where["tats_ray"]


def test_no_secret_is_baked_in(lines: list[str]) -> None:
    assert not [line for line in lines if re.match(r"(ARG|ENV)\b.*(PASSWORD|SECRET|TOKEN|KEY)", line)]
