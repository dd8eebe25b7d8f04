"""One local Ray for all tests of this folder: a start costs seconds."""

import os
from collections.abc import Iterator

import pytest
import ray

from tats_ray.cluster.runtime import start_ray


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
