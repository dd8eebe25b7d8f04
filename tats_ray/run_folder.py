"""A run's folder, ``<results>/<name>/<number>/``: its number, its status, and the lock on its name."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tats_ray.claims import leased, new_number, next_number
from tats_ray.config.overrides import ConfigError
from tats_ray.config.run import Run
from tats_ray.copies import where
from tats_ray.mirror import read_text, remove, write_text
from tats_ray.tracking.base import RunHandle


def new_folder(run: Run, name: str) -> Path:
    """Make the folder of the next number under a name.

    Raises:
        ConfigError: ``results`` cannot be written.
    """
    with writing(run):
        return new_number(run.root / name)


def read_status(folder: Path) -> dict:
    """Return what ``status.json`` says; empty when there is none."""
    try:
        return json.loads(read_text(folder / "status.json"))
    except FileNotFoundError:
        return {}


def write_status(
    folder: Path, status: str, handle: RunHandle, *, manifest_hash: str | None = None, insist: bool = True
) -> None:
    """Replace ``status.json``; ``insist`` as for :func:`~tats_ray.mirror.write_text`."""
    here = folder / "status.json"  # written by this machine: the store may be away when a run ends
    content = (json.loads(here.read_text()) if here.exists() else read_status(folder)) | {
        "status": status,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "mlflow_run_id": handle.run_id,
    }
    if manifest_hash is not None:
        content["manifest_hash"] = manifest_hash
    write_text(here, json.dumps(content, indent=2), insist=insist)


@contextmanager
def alone(run: Run, *, wait: bool = True) -> Iterator[None]:
    """Hold the name of a run, so that no other process resumes or numbers a run of that name meanwhile.

    The lock is the operating system's: it goes with the process that holds it, however that ends. Where the results lie
    at a URI, other machines are kept out by a lease; ``wait`` until it is known whether its holder is alive.

    Raises:
        ConfigError: Another process holds the name, or the results folder cannot be written.
    """
    path = run.root / ".locks" / run.name
    with writing(run):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _held(run) from error
        with ExitStack() as stack:
            with writing(run):
                held = stack.enter_context(leased(path.with_name(f"{run.name}.lease"), wait=wait))
            if not held:
                raise _held(run)
            yield


def _held(run: Run) -> ConfigError:
    root = run.root / run.name
    status = read_status(root / f"{next_number(root) - 1:04d}")
    holder = f"process {status.get('pid', 'unknown')} on {status.get('host', 'another host')}"
    return ConfigError(
        f"a run of the name {run.name} is being trained in {where(root)} by {holder}; wait for it, stop it, or give "
        f"this run another name="
    )


def is_held(run: Run) -> bool:
    """Say whether a living process holds the name of a run."""
    try:
        with alone(run, wait=False):
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
            remove(folder)
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
