"""How runs end on record: in their folder and in MLflow, by themselves or together with those that they belong to."""

import logging
import time
from collections.abc import Iterable
from pathlib import Path

from tats_ray.config.run import Run
from tats_ray.interruption import Ending
from tats_ray.run_folder import is_held, read_status, write_status
from tats_ray.tracking.base import RunHandle, TrackingError
from tats_ray.tracking.mlflow import end_run, tag_run
from tats_ray.tracking.store import resolve_uri
from tats_ray.training.state import checkpoint_identity, latest_checkpoint

_logger = logging.getLogger(__name__)


def end_in(folder: Path, status: Ending, handle: RunHandle, *, reason: str | None = None) -> None:
    """Record how the run of a folder ended, there and in MLflow, which may be away by now."""
    write_status(folder, status, handle, insist=False)
    close_record(handle, status, reason=reason)
    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is not None and (named := checkpoint_identity(checkpoint)):
        try:
            tag_run(handle, {f"tats.{module}": name for module, name in named.items()})
        except TrackingError as error:
            _logger.warning("MLflow run %s lacks the names of its modules: %s", handle.run_id, error)


def close_record(handle: RunHandle, status: Ending, *, reason: str | None = None) -> None:
    """Close an MLflow run; a store that is away by now changes nothing about how it ended."""
    try:
        end_run(handle, status=status, reason=reason)
    except TrackingError as error:
        _logger.warning("MLflow run %s could not be closed as %s: %s", handle.run_id, status, error)


def end_as_killed(run: Run, folders: Iterable[Path], *, patience: float) -> None:
    """Record runs as KILLED whose processes were killed; one that finished after all is left as it is.

    Args:
        run: Says where they are recorded.
        folders: Of the runs.
        patience: Seconds in which their processes are awaited, which may be going yet and write an ending themselves.
    """
    until = time.monotonic() + patience
    for folder in folders:
        own = run.model_copy(update={"name": folder.parent.name})
        while is_held(own) and time.monotonic() < until:
            time.sleep(0.1)
        if read_status(folder)["status"] != "FINISHED":
            end_in(folder, "KILLED", handle_of(run, folder))


def handle_of(run: Run, folder: Path) -> RunHandle:
    """Return the record of the run in a folder; ``run`` says in which store."""
    uri = resolve_uri(run.tracking.uri, results_root=run.root)
    return RunHandle(uri=uri, run_id=read_status(folder)["mlflow_run_id"], experiment_id="", folder=folder)
