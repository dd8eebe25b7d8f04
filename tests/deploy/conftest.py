"""The deploy files as data, and the versions that they must agree with."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def _pinned(package: str) -> str:
    (version,) = re.findall(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return version


@pytest.fixture(scope="session")
def deploy() -> Path:
    return DEPLOY


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="session")
def launcher() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "cluster.yaml").read_text())


@pytest.fixture(scope="session")
def ray_cluster() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "kubernetes" / "raycluster.yaml").read_text())


@pytest.fixture(scope="session")
def ray_job() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "kubernetes" / "rayjob.yaml").read_text())


@pytest.fixture(scope="session")
def ray_version() -> str:
    return _pinned("ray")


@pytest.fixture(scope="session")
def own_tag() -> str:
    """How a tag of our own image begins: the package's version, then Ray's and Python's, which a client must share."""
    from tats_ray import __version__

    (python,) = re.findall(r'pythonVersion = "3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    return f"{__version__}-ray{_pinned('ray')}-py3{python}-"
