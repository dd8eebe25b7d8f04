"""A run's folder, ``<results>/<name>/<number>/``: its number, its status, and the lock on its name."""

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tats_ray.config.overrides import ConfigError
from tats_ray.config.run import Run
from tats_ray.tracking.base import RunHandle


def new_folder(run: Run, name: str) -> Path:
    """Make the folder of the next number under a name.

    Raises:
        ConfigError: ``results`` cannot be written.
    """
    assert run.results is not None
    root = Path(run.results) / name
    folder = root / f"{next_number(root):04d}"
    with writing(run):
        folder.mkdir(parents=True)
    return folder


def next_number(root: Path) -> int:
    """Return the number after the highest that a folder below ``root`` has; they start at 1."""
    taken = [int(path.name) for path in root.glob("*") if path.name.isdigit()]
    return max(taken, default=0) + 1


def read_status(folder: Path) -> dict:
    """Return what ``status.json`` says; empty when there is none."""
    path = folder / "status.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_status(folder: Path, status: str, handle: RunHandle, *, manifest_hash: str | None = None) -> None:
    """Replace ``status.json``."""
    content = read_status(folder) | {
        "status": status,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "mlflow_run_id": handle.run_id,
    }
    if manifest_hash is not None:
        content["manifest_hash"] = manifest_hash
    partial = folder / ".status.json"
    partial.write_text(json.dumps(content, indent=2))
    partial.replace(folder / "status.json")


@contextmanager
def alone(run: Run) -> Iterator[None]:
    """Hold the name of a run, so that no other process resumes or numbers a run of that name meanwhile.

    The lock is the operating system's: it goes with the process that holds it, however that ends.

    Raises:
        ConfigError: Another process holds the name, or the results folder cannot be written.
    """
    assert run.results is not None
    path = Path(run.results) / ".locks" / run.name
    with writing(run):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            root = Path(run.results) / run.name
            status = read_status(root / f"{next_number(root) - 1:04d}")
            holder = f"process {status.get('pid', 'unknown')} on {status.get('host', 'another host')}"
            raise ConfigError(
                f"a run of the name {run.name} is being trained in {root} by {holder}; wait for it, stop it, or give "
                f"this run another name="
            ) from error
        yield


def is_held(run: Run) -> bool:
    """Say whether a living process holds the name of a run."""
    try:
        with alone(run):
            return False
    except ConfigError:
        return True


@contextmanager
def abandoned(folder: Path | None) -> Iterator[None]:
    """Remove a folder when the block fails: a number belongs to a run that began."""
    try:
        yield
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder)
        raise


@contextmanager
def writing(run: Run) -> Iterator[None]:
    """Name the setting when the block cannot write below ``results``.

    Raises:
        ConfigError: It cannot.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"results={run.results} cannot be written: {error}; give results= or TATS_RESULTS a folder that can"
        ) from error
