"""One local Ray for all tests of this folder: a start costs seconds."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient

from tats_ray.cluster.runtime import start_ray
from tats_ray.config.run import TrainRun


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of four CPUs in its account, whatever the machine has, and one thread for every library."""
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["OMP_NUM_THREADS"] = "1"
    start_ray(num_cpus=4)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def _ray_where_it_is_marked(request: pytest.FixtureRequest) -> None:
    """Without this, the first test that starts Ray would choose its size for all."""
    if request.node.get_closest_marker("ray"):
        request.getfixturevalue("local_ray")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def client(results: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{results / 'mlflow.db'}")


@pytest.fixture(scope="module")
def run_of(
    results: Path, small_run: Callable[..., TrainRun], write_manifest: Callable[[Path], Path]
) -> Callable[..., TrainRun]:
    manifest = write_manifest(results / "videos")

    def make(**knobs: object) -> TrainRun:
        own = {"cluster.num_workers": 1, "cluster.max_failures": 1, "optim.max_skipped_steps": 0}
        named = {name.replace("__", "."): value for name, value in knobs.items()}
        return small_run("base", manifest=manifest, results=results, knobs={**own, **named})

    return make
