"""Runs of a few steps through the driver, in this process and without Ray; all share one SQLite store."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tats_ray.config.run import TrainRun


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory, write_manifest: Callable[[Path], Path]) -> Path:
    return write_manifest(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One root for all, since a fresh MLflow database takes seconds."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def run(manifest: Path, results: Path, request: pytest.FixtureRequest, small_run: Callable[..., TrainRun]) -> TrainRun:
    """A run of eight steps under the test's own name."""
    return small_run(re.sub(r"\W+", "-", request.node.name).strip("-"), manifest=manifest, results=results)


@pytest.fixture
def client(results: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
