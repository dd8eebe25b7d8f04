"""Pipelines run as commands, on six small videos."""

import os
import runpy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tats_ray.data.listing import list_sources
from tats_ray.data.manifest import Manifest
from tats_ray.data.probe import probe_record
from tats_ray.data.synthetic import SyntheticConfig, make_videos

PIPELINES = Path(__file__).parents[2] / "pipelines"
SECONDS = 60
"""No wrong command may take longer once its imports are done (a second or two alone): none waits for a server."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int | str | None
    out: str
    err: str


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Settings of a run of four steps in one process."""
    return [
        "cluster.num_workers=0",
        "data.num_frames=4",
        "data.crop_size=16",
        "model.patch_size=4",
        "model.encoder.depth=1",
        "masking.mask_ratio=0.9",
        "training.steps=4",
        "training.global_batch=4",
        "training.checkpoint_every=2",
        "tracking.log_every=1",
    ]


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    make_videos(folder, SyntheticConfig(num_videos=6, frames=6, size=32))
    return folder


@pytest.fixture(scope="session")
def manifest(videos: Path) -> Path:
    path = videos / "six.parquet"
    Manifest.of([probe_record(source, label=label) for source, label in list_sources(videos)]).write(path)
    return path


@pytest.fixture(scope="session")
def environment() -> Callable[[Path], dict[str, str]]:
    """This process's, with results below a folder and nothing said of MLflow or Ray."""

    def make(results: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_"))}
        return kept | {"TATS_RESULTS": str(results), "OMP_NUM_THREADS": "1"}

    return make


@pytest.fixture
def command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    environment: Callable[[Path], dict[str, str]],
) -> Callable[..., Done]:
    """Run a pipeline as ``python pipelines/NAME.py`` does, but for the imports, in an empty folder.

    An exception that it lets through, a traceback for the user, fails the test.
    """
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(environment(tmp_path)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("TATS_RESULTS", str(tmp_path / "results"))

    def run(name: str, *arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        began = time.monotonic()
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(PIPELINES / f"{name}.py"), run_name="__main__")
        assert time.monotonic() - began < SECONDS
        return Done(left.value.code, *capfd.readouterr())

    return run
