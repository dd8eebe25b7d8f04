"""The store a run is recorded in: which one, whether it can be written, and how to name it in public."""

import fcntl
import os
import re
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tats_ray.copies import uri_of, where
from tats_ray.tracking.base import RunHandle, TrackingError

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SERVERS = ("http", "https", "databricks")
# A database password may hold a slash; elsewhere a slash ends the authority, and an @ behind it belongs to a path.
# A URI that was taken for a path has one slash.
_USERINFO = re.compile(r"(\b(?:postgresql|mysql|mssql)[+\w]*://)\S*@|(\b[a-z][a-z0-9+.-]*:/{1,2})[^/\s]*@", re.I)
# What opens a signed or shared address of an object store.
_QUERY = re.compile(
    r"([?&](?:x-amz-\w[\w-]*|x-goog-\w[\w-]*|sig|signature|token|access_token|password)=)[^&\s\"']+", re.I
)


def resolve_uri(uri: str | None, *, results_root: Path) -> str:
    """Choose the store: the URI given, else ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the results root.

    Raises:
        ValueError: The URI or the results root is relative: driver and workers have different current directories. Or
            MLflow can no longer write to such a store. Or none is given, and the results lie at a URI.
    """
    if not results_root.is_absolute():
        raise ValueError(
            f"results_root must be an absolute path, got {str(results_root)!r}; try {results_root.resolve()}"
        )
    if uri is not None:
        return _checked(uri, named="tracking.uri")
    if from_environment := os.environ.get("MLFLOW_TRACKING_URI"):
        return _checked(from_environment, named="MLFLOW_TRACKING_URI")
    if uri_of(results_root) is not None:
        raise ValueError(
            f"{where(results_root)} cannot hold MLflow's database; give tracking.uri= or MLFLOW_TRACKING_URI a server "
            f"(http://host:5000), or a database of this machine (sqlite:////absolute/path/mlflow.db)"
        )
    return f"sqlite:///{results_root / 'mlflow.db'}"


def artifact_location(uri: str, *, results_root: Path) -> str | None:
    """Return where an experiment's files go, for ever; None where a server decides.

    That is below the results. Where these lie at a URI, a SQLite file has them beside it: not every store of results is
    one to MLflow.
    """
    if not is_database(uri):
        return None
    copied = uri_of(results_root / "mlartifacts")
    if copied is not None and _scheme(uri) == "sqlite":
        return (_sqlite_path(uri).parent / "mlartifacts").as_uri()
    return copied or (results_root / "mlartifacts").as_uri()


def is_database(uri: str) -> bool:
    """Whether MLflow opens this store itself; otherwise a server stands before it and keeps the artifacts too."""
    return _scheme(uri) in _DATABASES


def run_page(handle: RunHandle) -> str | None:
    """Return the address of a run's page on its server; None where no server keeps it."""
    if _scheme(handle.uri) not in ("http", "https"):
        return None
    server = without_credentials(handle.uri).rstrip("/")
    return f"{server}/#/experiments/{handle.experiment_id}/runs/{handle.run_id}"


@contextmanager
def first_use(uri: str) -> Iterator[None]:
    """Let one process at a time open a SQLite file for the first time; nobody waits for other stores.

    MLflow makes its tables when it first opens a file; of several processes that do so at once, all but one fail.

    Raises:
        TrackingError: The folder of the file cannot be written.
    """
    if _scheme(uri) != "sqlite":
        yield
        return
    path = _sqlite_path(uri)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name}.lock").open("a")
    except OSError as error:
        raise TrackingError(
            f"MLflow database {path} cannot be written: {error}; "
            "set tracking.uri or MLFLOW_TRACKING_URI to one in a writable folder"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_database(uri: str) -> None:
    """Write to a SQLite file and take it back; any other store passes unseen.

    MLflow itself would retry for minutes before it says that it cannot.

    Raises:
        TrackingError: The file cannot be made or written, is locked, or is no database.
    """
    if _scheme(uri) != "sqlite":
        return
    path = _sqlite_path(uri)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=4, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("CREATE TABLE tats_ray_write_check (x)")
            database.execute("ROLLBACK")
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(
            f"MLflow database {path} cannot be written: {error}; "
            "set tracking.uri or MLFLOW_TRACKING_URI to one in a writable folder"
        ) from error


def ui_command(uri: str) -> str:
    """The command that opens a database in MLflow's UI from any folder; of a server, its address."""
    if not is_database(uri):
        return without_credentials(uri)
    beside_python = Path(sys.executable).with_name("mlflow")
    found = shutil.which("mlflow")
    # An environment that is not activated has its mlflow off the PATH; another one there may not know this database.
    program = "mlflow" if found and Path(found) == beside_python else str(beside_python)
    return f"{shlex.quote(program)} ui --backend-store-uri {shlex.quote(without_credentials(uri))}"


def without_credentials(text: str) -> str:
    """Strip ``user:password@`` and the values of signatures and tokens from every URI in a text."""
    return _QUERY.sub(r"\1...", _USERINFO.sub(r"\1\2", text))


def _checked(uri: str, *, named: str) -> str:
    if _scheme(uri) not in _DATABASES + _SERVERS:
        raise ValueError(
            f"{named} must be a server (http://host:5000) or a database (sqlite:////absolute/path/mlflow.db), "
            f"got {without_credentials(uri)!r}; MLflow no longer writes plain folders"
        )
    if _scheme(uri) == "sqlite" and not _sqlite_path(uri).is_absolute():
        absolute = Path.cwd() / (_sqlite_path(uri).name or "mlflow.db")
        raise ValueError(
            f"{named} must be absolute, with four slashes for SQLite, got {uri!r}; try sqlite:///{absolute}"
        )
    return uri


def _sqlite_path(uri: str) -> Path:
    return Path(uri.partition(":///")[2].partition("?")[0])


def _scheme(uri: str) -> str:
    """``postgresql`` of ``postgresql+psycopg2://...``; a bare word is its own scheme."""
    return uri.partition(":")[0].partition("+")[0].lower()
