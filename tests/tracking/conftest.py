"""One real store for all, and no setting of this machine."""

import runpy
from pathlib import Path

import pytest

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))
BOUNDS, begin = (MADE[name] for name in ("BOUNDS", "begin"))


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", *BOUNDS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def results_root(tmp_path_factory):
    """One results root with one SQLite file, since making its tables takes seconds."""
    root = tmp_path_factory.mktemp("results")
    (root / "runs").mkdir()
    return root


@pytest.fixture
def handle(results_root):
    return begin(results_root)
