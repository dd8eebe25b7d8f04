import shutil
import sys
from pathlib import Path

import pytest

from tats_ray.tracking.base import TrackingError
from tats_ray.tracking.store import check_database, resolve_uri, ui_command, without_credentials


@pytest.fixture(autouse=True)
def _no_uri_in_the_environment(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_the_config_wins_over_the_environment_and_that_over_the_default(monkeypatch, tmp_path):
    assert resolve_uri(None, results_root=tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment:5000")
    assert resolve_uri(None, results_root=tmp_path) == "http://environment:5000"
    assert resolve_uri("http://config:5000", results_root=tmp_path) == "http://config:5000"


@pytest.mark.parametrize(
    "uri", ["sqlite:///mlflow.db", "sqlite:///runs/mlflow.db?timeout=5", "sqlite://", "sqlite:///:memory:"]
)
def test_a_relative_database_is_refused_with_an_absolute_one_to_try(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"tracking.uri.*try sqlite:///{tmp_path}/"):
        resolve_uri(uri, results_root=tmp_path)


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "./mlruns", "/tmp/mlruns", "mlruns", ""])
def test_a_folder_is_refused(uri, tmp_path):
    with pytest.raises(ValueError, match=r"tracking\.uri must be a server"):
        resolve_uri(uri, results_root=tmp_path)


def test_a_refused_environment_is_called_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:mlruns")
    with pytest.raises(ValueError, match=r"^MLFLOW_TRACKING_URI must"):
        resolve_uri(None, results_root=tmp_path)


def test_a_relative_results_root_is_refused():
    with pytest.raises(ValueError, match=f"results_root must be an absolute path, got 'runs'; try {Path.cwd()}/runs"):
        resolve_uri(None, results_root=Path("runs"))


def test_a_database_that_can_be_written_is_left_as_it_was(tmp_path):
    uri = f"sqlite:///{tmp_path}/new folder/mlflow.db"
    check_database(uri)
    check_database(uri)
    assert (tmp_path / "new folder/mlflow.db").read_bytes() == b""


def test_a_database_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrackingError, match=rf"MLflow database {tmp_path}/file/mlflow.db cannot be written"):
        check_database(f"sqlite:///{tmp_path}/file/mlflow.db")
    (tmp_path / "mlflow.db").write_text("this is prose, and long enough to be looked at as a header" * 20)
    with pytest.raises(TrackingError, match="not a database"):
        check_database(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("http://me:pass@host:5000/x", "http://host:5000/x"),
        ("https://token@host", "https://host"),
        ("http://me:p@ss@host/x", "http://host/x"),
        ("postgresql+psycopg2://me:pa/ss@host/db", "postgresql+psycopg2://host/db"),
        (
            "API request to http://me:pass@host failed, http://me:pass@host",
            "API request to http://host failed, http://host",
        ),
        ("s3://bucket/clips@48px", "s3://bucket/clips@48px"),
        ("http:/me:pass@host/x", "http:/host/x"),
        ("https://b.host/a.mp4?X-Amz-Signature=pass&b=1", "https://b.host/a.mp4?X-Amz-Signature=...&b=1"),
        ("['https://host/a.mp4?b=1&sig=pass']", "['https://host/a.mp4?b=1&sig=...']"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
        ("me@example.org", "me@example.org"),
    ],
)
def test_credentials_go_and_the_rest_stays(secret, shown):
    assert without_credentials(secret) == shown


def test_the_ui_command_runs_from_anywhere(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    monkeypatch.setattr(shutil, "which", lambda name: f"/venv/bin/{name}")
    assert ui_command("sqlite:////data/mlflow.db") == "mlflow ui --backend-store-uri sqlite:////data/mlflow.db"
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert ui_command("sqlite:////my data/mlflow.db") == (
        "/venv/bin/mlflow ui --backend-store-uri 'sqlite:////my data/mlflow.db'"
    )
    assert ui_command("http://me:pass@host:5000") == "http://host:5000"
