"""The driver: claims a folder for a run, opens its record, has it executed, and ends both with the truth.

``<results>/<name>/<number>/``
    ``run.yaml``       every setting
    ``status.json``    RUNNING, FINISHED, FAILED or KILLED, the process, the MLflow run
    ``checkpoints/``, ``pictures/``, ``summary.json``, ``error.log``
"""

import fcntl
import json
import logging
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from tats_ray.config.files import read_run, to_yaml
from tats_ray.config.overrides import ConfigError, flatten
from tats_ray.config.run import TrainRun
from tats_ray.data.manifest import Manifest, ManifestError
from tats_ray.data.order import split_held_out
from tats_ray.tracking.base import DatasetRecord, RunHandle, TrackingError
from tats_ray.tracking.mlflow import end_run, open_run
from tats_ray.tracking.store import resolve_uri, without_credentials
from tats_ray.training.loop import DataLossError
from tats_ray.training.state import CheckpointError, checkpoint_step, latest_checkpoint, verify_checkpoint
from tats_ray.training.stepper import NotFiniteError
from tats_ray.worker import SUMMARY, Launch

RUN_ERRORS = (ConfigError, ManifestError, TrackingError, CheckpointError, DataLossError, NotFiniteError)
"""Errors whose message is all that a user needs."""

FREE_TO_CHANGE = (
    "cluster.",
    "tracking.",
    "results",
    "training.keep_checkpoints",
    "data.manifest",
    "data.max_failed_share",
)
"""Settings that may differ when a run is resumed: they do not change what is learnt (videos go by their hash)."""

PASSED_ON = ("MLFLOW_", "AWS_")
"""Environment variables that reach the workers: addresses and credentials of the run's record."""


_logger = logging.getLogger(__name__)


class Terminated(BaseException):
    """SIGTERM arrived."""


class RunFailedError(Exception):
    """A run failed; the message is fit to be shown without a traceback."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    launch: Launch
    summary: dict[str, float]
    resumed_from: Path | None


def conduct(
    run: TrainRun,
    execute: Callable[[Launch], None],
    *,
    fresh: bool = False,
    parent_run_id: str | None = None,
) -> Outcome:
    """Execute a run to its end, resuming an interrupted one of the same name.

    Args:
        run: The resolved run.
        execute: Trains, in this process or on a cluster.
        fresh: Start anew even if there is something to resume.
        parent_run_id: MLflow run of the sweep it belongs to.

    Raises:
        RunFailedError: It cannot start, or failed; everything is recorded.
        KeyboardInterrupt, Terminated: It was interrupted; recorded as KILLED.
    """
    with ExitStack() as stack:
        stack.enter_context(_terminable())
        try:
            run, manifest = prepare(run)
            stack.enter_context(_alone(run))
        except (*RUN_ERRORS, ValueError) as error:
            raise RunFailedError(str(error)) from error
        return _conduct(run, manifest, execute, fresh=fresh, parent_run_id=parent_run_id)


def _conduct(
    run: TrainRun, manifest: Manifest, execute: Callable[[Launch], None], *, fresh: bool, parent_run_id: str | None
) -> Outcome:
    try:
        folder, resumed_from = claim(run, manifest, fresh=fresh)
        handle = _open(run, manifest, folder, resumed=resumed_from is not None, parent_run_id=parent_run_id)
    except (*RUN_ERRORS, ValueError) as error:
        raise RunFailedError(str(error)) from error
    if resumed_from is not None:
        step = checkpoint_step(resumed_from)
        Console(stderr=True).print(f"resuming {folder} from step {step}; --fresh starts anew", highlight=False)
    environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    launch = Launch(run=run, folder=folder, handle=handle, environment=environment)
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
    try:
        execute(launch)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except BaseException as error:
        raise RunFailedError(_record_failure(folder, error)) from error
    finally:
        _end(folder, status, handle)
    return Outcome(launch, json.loads((folder / SUMMARY).read_text()), resumed_from)


def prepare(run: TrainRun) -> tuple[TrainRun, Manifest]:
    """Make every path absolute, and check all that can be checked before anything starts.

    Raises:
        ConfigError, ManifestError, CheckpointError, ValueError: With the setting and the way out.
    """
    if run.data.manifest is None:
        raise ConfigError(
            "data.manifest is not set; index your videos first: python pipelines/index_videos.py FOLDER --out "
            "manifest.parquet, then add data.manifest=manifest.parquet"
        )
    results = results_root(run)
    data = run.data.model_copy(update={"manifest": absolute(run.data.manifest, "data.manifest")})
    init = None if run.init is None else absolute(run.init, "init")
    run = run.model_copy(update={"data": data, "results": str(results), "init": init})
    assert data.manifest is not None
    manifest = Manifest.read(data.manifest)
    rows, _ = split_held_out(len(manifest), held_out=data.held_out, seed=run.seed)
    run.total_steps(len(rows))
    lengths = manifest.table.column("num_frames" if data.fps is None else "duration").to_pylist()
    longest = manifest.record(int(np.argmax(lengths)))
    if data.pace.latest_start(longest) < 0:
        pace = f"data.frame_stride={data.frame_stride}" if data.fps is None else f"data.fps={data.fps:g}"
        raise ConfigError(
            f"a clip of data.num_frames={data.num_frames} at {pace} is longer than every video of {data.manifest} "
            f"(longest: {longest.num_frames} frames, {longest.duration:.3g} s); take fewer frames, or closer ones"
        )
    if init is not None:
        _check_init(Path(init))
    return run, manifest


def _check_init(folder: Path) -> None:
    try:
        verify_checkpoint(folder)
    except CheckpointError as error:
        raise ConfigError(
            f"init={folder} is no intact checkpoint ({error}); name a folder such as <results>/<name>/0001/checkpoints/"
            f"step_00000200, or leave init out"
        ) from error


def results_root(run: TrainRun) -> Path:
    """Return the absolute folder in which results lie; it outlives a Ray job's working directory.

    Raises:
        ConfigError: It is relative inside a Ray job.
    """
    default = os.environ.get("TATS_RESULTS") or str(Path.home() / "tats_ray_results")
    return Path(absolute(run.results or default, "results"))


def absolute(path: str, knob: str) -> str:
    """Return an absolute path; a relative one counts from the current directory, which a Ray job does not keep.

    Raises:
        ConfigError: The path is relative inside a Ray job.
    """
    expanded = Path(path).expanduser()
    if not expanded.is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise ConfigError(
            f"{knob} must be an absolute path in a Ray job, got {path!r}: the job runs in a copy of the working "
            f"directory that is removed with it"
        )
    return str(expanded.absolute())


def claim(run: TrainRun, manifest: Manifest, *, fresh: bool) -> tuple[Path, Path | None]:
    """Return the folder of the run, and the checkpoint it is resumed from; the caller holds the run's name.

    An unfinished run of the same name with a checkpoint is resumed; otherwise the next number is taken.

    Raises:
        ConfigError: The unfinished run was started with other settings or videos, or results cannot be written.
        CheckpointError: Its checkpoint is damaged.
    """
    assert run.results is not None
    root = Path(run.results) / run.name
    number = next_number(root)
    if number > 1:
        newest = root / f"{number - 1:04d}"
        status = read_status(newest)
        checkpoint = latest_checkpoint(newest / "checkpoints")
        if status.get("status") != "FINISHED" and checkpoint is not None and not fresh:
            _check_same(run, newest, status, manifest)
            verify_checkpoint(checkpoint)
            return newest, checkpoint
        if status.get("status") == "RUNNING":  # given up: it ends here, as what it was
            uri = resolve_uri(run.tracking.uri, results_root=Path(run.results))
            handle = RunHandle(uri=uri, run_id=status["mlflow_run_id"], experiment_id="")
            _end(newest, "KILLED", handle)
    folder = root / f"{number:04d}"
    try:
        folder.mkdir(parents=True)
        (folder / "run.yaml").write_text(without_credentials(to_yaml(run)))
    except OSError as error:
        raise ConfigError(f"results={run.results} cannot be written: {error}") from error
    return folder, None


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


def _open(run: TrainRun, manifest: Manifest, folder: Path, *, resumed: bool, parent_run_id: str | None) -> RunHandle:
    assert run.results is not None
    assert run.data.manifest is not None
    tracking = run.tracking
    if tracking.run_name is None:
        tracking = tracking.model_copy(update={"run_name": f"{run.name}-{folder.name}"})
    handle = open_run(
        tracking,
        results_root=Path(run.results),
        params=run.model_dump(mode="json"),
        dataset=DatasetRecord(name=Path(run.data.manifest).stem, digest=manifest.hash, source=run.data.manifest),
        run_id=read_status(folder)["mlflow_run_id"] if resumed else None,
        parent_run_id=parent_run_id,
        tags={"tats.folder": str(folder), "tats.visible": run.masking.visible.kind},
    )
    write_status(folder, "RUNNING", handle, manifest_hash=manifest.hash)
    return handle


def _end(folder: Path, status: Literal["FINISHED", "FAILED", "KILLED"], handle: RunHandle) -> None:
    """Record how a run ended; a store that is away by now changes nothing about that."""
    write_status(folder, status, handle)
    try:
        end_run(handle, status=status)
    except TrackingError as error:
        _logger.warning("MLflow run %s could not be closed as %s: %s", handle.run_id, status, error)


@contextmanager
def _alone(run: TrainRun) -> Iterator[None]:
    """Hold the name of a run, so that no other process resumes or numbers a run of that name meanwhile.

    The lock is the operating system's: it goes with the process that holds it, however that ends.

    Raises:
        ConfigError: Another process holds the name, or the results folder cannot be written.
    """
    assert run.results is not None
    path = Path(run.results) / ".locks" / run.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise ConfigError(f"results={run.results} cannot be written: {error}") from error
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


def _check_same(run: TrainRun, folder: Path, status: dict, manifest: Manifest) -> None:
    before = flatten(read_run(folder / "run.yaml").model_dump(mode="json"))
    now = flatten(run.model_dump(mode="json"))
    changed = [
        f"{path} was {before.get(path)!r}, is {now.get(path)!r}"
        for path in sorted(before.keys() | now.keys())
        if before.get(path) != now.get(path) and not path.startswith(FREE_TO_CHANGE)
    ]
    if status.get("manifest_hash") not in (None, manifest.hash):
        changed.append(f"the content of {run.data.manifest} has changed")
    if changed:
        raise ConfigError(
            f"the unfinished run {folder} was started differently: {'; '.join(changed)}. Repeat its settings to resume "
            f"it, start anew with --fresh, or give this run another name="
        )


def _record_failure(folder: Path, error: BaseException) -> str:
    """Write the traceback to a file; return the one message for the user."""
    (folder / "error.log").write_text("".join(traceback.format_exception(error)))
    if isinstance(error, RUN_ERRORS):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else ''} (tracebacks: {folder}/error*.log)"


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that what was begun is ended properly."""
    arrived = False

    def stop(number: int, frame: object) -> None:
        nonlocal arrived
        arrived = True
        raise KeyboardInterrupt  # the one exception from a signal that Ray's waiting calls let through

    if threading.current_thread() is not threading.main_thread():  # a trial of a sweep; its process gets the signal
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        if arrived:
            raise Terminated from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
