"""One small run for all tests of this folder."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tats_ray.config.run import TrainRun
from tats_ray.data.manifest import Manifest
from tats_ray.probing.frozen import FrozenEncoder

MADE = runpy.run_path(str(Path(__file__).parent / "made.py"))


@pytest.fixture(scope="session")
def make_probed(small_run: Callable[..., TrainRun]) -> Callable[..., Any]:
    """Make a run's folder with a checkpoint and labelled videos, of its own."""
    return lambda folder, **knobs: MADE["make"](folder, small_run, **knobs)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, make_probed: Callable[..., Any]) -> Any:
    return make_probed(tmp_path_factory.mktemp("probed"))


@pytest.fixture(scope="session")
def frozen(made: Any) -> FrozenEncoder:
    return FrozenEncoder.load(made.folder, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def train(made: Any) -> Manifest:
    return Manifest.read(made.train)


@pytest.fixture(scope="session")
def test(made: Any) -> Manifest:
    return Manifest.read(made.test)
