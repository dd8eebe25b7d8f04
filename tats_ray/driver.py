"""The driver: claims a folder for a run, opens its record, has it executed, and ends both with the truth.

``<results>/<name>/<number>/``
    ``run.yaml``       every setting
    ``status.json``    RUNNING, FINISHED, FAILED or KILLED, the process, the MLflow run
    ``checkpoints/``, ``pictures/``, ``summary.json``, ``error.log``
"""

import json
import os
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from rich.console import Console

from tats_ray.claims import next_number
from tats_ray.config.files import read_run, to_yaml
from tats_ray.config.labels import describe_run, run_tags
from tats_ray.config.overrides import ConfigError, R, flatten
from tats_ray.config.run import Run
from tats_ray.copies import MirrorError, path_of, uri_of, where
from tats_ray.data.cache import frames_gib
from tats_ray.data.code_rows import CodesError
from tats_ray.data.lengths import check_lengths
from tats_ray.data.manifest import Manifest, ManifestError
from tats_ray.data.order import epoch_length, split_held_out
from tats_ray.data.places import is_uri
from tats_ray.data.synthetic import require_truth
from tats_ray.endings import end_in, handle_of
from tats_ray.interruption import politely, recorded, terminable
from tats_ray.mirror import check, read_text, write_text
from tats_ray.run_codes import with_codes
from tats_ray.run_folder import abandoned, alone, new_folder, read_status, write_status, writing
from tats_ray.tracking.base import DatasetRecord, RunHandle, TrackingError
from tats_ray.tracking.mlflow import open_run, send_left_over
from tats_ray.tracking.store import resolve_uri, without_credentials
from tats_ray.training.loop import DataLossError
from tats_ray.training.state import (
    CheckpointError,
    checkpoint_step,
    latest_checkpoint,
    send_left,
    verify_checkpoint,
)
from tats_ray.training.stepper import NotFiniteError
from tats_ray.worker import SUMMARY, Launch, check_init

RUN_ERRORS = (
    CodesError,
    ConfigError,
    ManifestError,
    MirrorError,
    TrackingError,
    CheckpointError,
    DataLossError,
    NotFiniteError,
)
"""Errors whose message is all that a user needs."""

FREE_TO_CHANGE = (
    "cluster.",
    "tracking.",
    "results",
    "training.keep_",
    "training.picture_every",
    "data.manifest",
    "data.max_failed_share",
    "data.on_error",
    "data.decode_",
    "data.cache",
)
"""Settings that may differ when a run is resumed: they do not change what is learnt (videos go by their hash)."""

PASSED_ON = ("MLFLOW_", "AWS_")
"""Environment variables that reach the workers: addresses and credentials of the run's record."""


class RunFailedError(Exception):
    """A run failed; the message is fit to be shown without a traceback, and holds no credentials."""

    def __init__(self, message: str) -> None:
        super().__init__(without_credentials(message))


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    launch: Launch
    summary: dict[str, float]
    resumed_from: Path | None


def conduct(
    run: Run,
    execute: Callable[[Launch], None],
    *,
    check: Callable[[Run], object] = lambda run: None,
    fresh: bool = False,
    parent_run_id: str | None = None,
    record_id: str | None = None,
) -> Outcome:
    """Execute a run to its end, resuming an interrupted one of the same name.

    Args:
        run: The resolved run.
        execute: Trains, in this process or on a cluster; a RunFailedError of its own is shown as it is.
        check: Raises one of ``RUN_ERRORS`` where ``execute`` could not run; called before anything is recorded.
        fresh: Start anew even if there is something to resume.
        parent_run_id: MLflow run of the sweep it belongs to.
        record_id: MLflow run that a run without something to resume goes on with, instead of a new one.

    Raises:
        RunFailedError: It cannot start, or failed; everything is recorded.
        KeyboardInterrupt, Terminated: It was interrupted; recorded as KILLED.
    """
    with ExitStack() as stack:
        stack.enter_context(terminable())
        try:
            run, manifest = prepare(run)
            check(run)
            stack.enter_context(alone(run))
        except (*RUN_ERRORS, ValueError) as error:
            raise RunFailedError(str(error)) from error
        return _conduct(run, manifest, execute, fresh=fresh, parent_run_id=parent_run_id, record_id=record_id)


def _conduct(
    run: Run,
    manifest: Manifest,
    execute: Callable[[Launch], None],
    *,
    fresh: bool,
    parent_run_id: str | None,
    record_id: str | None,
) -> Outcome:
    try:
        folder, resumed_from = claim(run, manifest, fresh=fresh)
        with abandoned(folder if resumed_from is None else None):
            record_id = record_id if resumed_from is None else read_status(folder)["mlflow_run_id"]
            handle = _open(run, manifest, folder, record_id=record_id, parent_run_id=parent_run_id)
    except (*RUN_ERRORS, ValueError) as error:
        raise RunFailedError(str(error)) from error
    if resumed_from is not None:
        step = checkpoint_step(resumed_from)
        Console(stderr=True).print(f"resuming {where(folder)} from step {step}; --fresh starts anew", highlight=False)
    environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    launch = Launch(run=run, folder=folder, handle=handle, environment=environment)
    with recorded(lambda ending, reason: end_in(folder, ending, handle, reason=reason)):
        send_left_over(handle.uri, results_root=results_root(run))
        try:
            with politely(partial(_stopping, folder, handle)) as interrupt:
                execute(launch)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise RunFailedError(_record_failure(folder, error)) from error
    interrupt()  # it came too late for this run, but not for what this run is a part of
    return Outcome(launch, json.loads(read_text(folder / SUMMARY)), resumed_from)


def prepare(run: R) -> tuple[R, Manifest]:
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
    named = [entry.model_copy(update={"path": absolute(entry.path, "data.manifest")}) for entry in run.data.manifest]
    check_store(run, results)
    codes = None if run.data.codes is None else absolute(run.data.codes, "data.codes")
    data = run.data.model_copy(update={"manifest": tuple(named), "codes": codes})
    init = None if run.init is None else where(_checkpoint_of(path_of(absolute(run.init, "init"))))
    run = run.model_copy(update={"data": data, "results": where(results), "init": init}).settled(absolute)
    manifest = Manifest.read_all(named)
    if run.truth_grid is not None:
        require_truth(manifest)
    rows, _ = split_held_out(len(manifest), held_out=data.held_out, seed=run.seed)
    videos = manifest.select(rows)
    _check_goes_on(run, total_steps=run.total_steps(epoch_length(videos.parts)))
    check_lengths(data, manifest, remedy="fewer frames, closer ones, or data.short_videos=loop")
    _check_cache(run, videos)
    check_init(run)
    return with_codes(run, manifest), manifest


def _check_goes_on(run: Run, *, total_steps: int) -> None:
    if run.init_takes == "weights":
        return
    if run.init is None:
        raise ConfigError("init_takes=training goes on from a checkpoint; name it, or a run's folder, with init=")
    step = checkpoint_step(path_of(run.init))
    if step >= total_steps:
        raise ConfigError(
            f"init_takes=training goes on from step {step} of {run.init}, and this run ends at step {total_steps}; "
            f"raise training.steps (or training.epochs) above it"
        )


def _check_cache(run: Run, videos: Manifest) -> None:
    workers = max(1, run.cluster.num_workers)
    needed = frames_gib(videos) * workers
    if run.data.cache == "memory" and needed > run.data.cache_gib:
        raise ConfigError(
            f"data.cache=memory would keep about {needed:.3g} GiB, all frames of {len(videos)} videos in each of "
            f"{workers} workers, more than data.cache_gib={run.data.cache_gib:g}; raise that, index the videos with "
            f"--transcode to a smaller short side, or take data.cache=none"
        )


def _checkpoint_of(init: Path) -> Path:
    """Return the checkpoint that ``init`` names: itself, or the newest of a run's folder."""
    folder = latest_checkpoint(init / "checkpoints") or init
    try:
        verify_checkpoint(folder)
    except CheckpointError as error:
        raise ConfigError(
            f"init={where(init)} is neither an intact checkpoint nor the folder of a run that has one ({error}); name "
            f"a folder such as <results>/<name>/0001 or <results>/<name>/0001/checkpoints/step_00000200, or leave init "
            f"out"
        ) from error
    return folder


def results_root(run: Run) -> Path:
    """Return the absolute folder in which results lie, or the copy of the URI where they do.

    Raises:
        ConfigError: It is relative inside a Ray job, whose working directory it would not outlive, or a URI with a
            password.
    """
    default = os.environ.get("TATS_RESULTS") or str(Path.home() / "tats_ray_results")
    try:
        return path_of(absolute(run.results or default, "results"))
    except MirrorError as error:
        raise ConfigError(f"results={error}") from error


def check_store(run: Run, root: Path) -> None:
    """See that the URI where results lie can be written, and that the record has another place than its copy here.

    Raises:
        ConfigError: Of these, which; with the way out.
    """
    if uri_of(root) is None:
        return
    try:
        resolve_uri(run.tracking.uri, results_root=root)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    try:
        check(root)
    except MirrorError as error:
        raise ConfigError(
            f"results={error}; see that the bucket is there, and that address and credentials are right in the "
            f"environment (for s3:// AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        ) from error


def absolute(path: str, knob: str) -> str:
    """Return an absolute path, or a URI as it is; a relative path counts from here, which a Ray job does not keep.

    Raises:
        ConfigError: The path is relative inside a Ray job.
    """
    if is_uri(path):
        return path
    expanded = Path(path).expanduser()
    if not expanded.is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise ConfigError(
            f"{knob} must be an absolute path in a Ray job, got {path!r}: the job runs in a copy of the working "
            f"directory that is removed with it"
        )
    return str(expanded.absolute())


def claim(run: Run, manifest: Manifest, *, fresh: bool) -> tuple[Path, Path | None]:
    """Return the folder of the run, and the checkpoint it is resumed from; the caller holds the run's name.

    An unfinished run of the same name with a checkpoint is resumed; otherwise the next number is taken.

    Raises:
        ConfigError: The unfinished run was started with other settings or videos, or results cannot be written.
        CheckpointError: Its checkpoint is damaged.
    """
    root = run.root / run.name
    number = next_number(root)
    if number > 1:
        newest = root / f"{number - 1:04d}"
        send_left(newest / "checkpoints")
        status = read_status(newest)
        checkpoint = latest_checkpoint(newest / "checkpoints")
        if status.get("status") != "FINISHED" and checkpoint is not None and not fresh:
            _check_same(run, newest, status, manifest)
            verify_checkpoint(checkpoint)
            return newest, checkpoint
        if status.get("status") == "RUNNING":  # given up: it ends here, as what it was
            end_in(newest, "KILLED", handle_of(run, newest))
    folder = new_folder(run, run.name)
    with abandoned(folder), writing(run):
        write_text(folder / "run.yaml", without_credentials(to_yaml(run)))
    return folder, None


def find_finished(run: Run, manifest: Manifest) -> Path | None:
    """Return the folder of a finished run of this name, these settings and these videos; None when there is none."""
    root = run.root / run.name
    for number in range(next_number(root) - 1, 0, -1):
        folder = root / f"{number:04d}"
        status = read_status(folder)
        if status.get("status") == "FINISHED" and not _changed(run, folder, status, manifest):
            return folder
    return None


def _open(run: Run, manifest: Manifest, folder: Path, *, record_id: str | None, parent_run_id: str | None) -> RunHandle:
    tracking = run.tracking
    if tracking.run_name is None:
        tracking = tracking.model_copy(update={"run_name": f"{run.name}-{folder.name}"})
    handle = open_run(
        tracking,
        results_root=run.root,
        folder=folder,
        params=run.model_dump(mode="json"),
        dataset=DatasetRecord(
            name="+".join(PurePosixPath(part.name).stem for part in manifest.parts),
            digest=manifest.hash,
            source=manifest.name,
        ),
        run_id=record_id,
        parent_run_id=parent_run_id,
        tags={"tats.kind": "run", "tats.folder": where(folder), **run_tags(run)},
        description=describe_run(run, num_videos=len(manifest)),
    )
    write_status(folder, "RUNNING", handle, manifest_hash=manifest.hash)
    return handle


def _stopping(folder: Path, handle: RunHandle) -> None:
    """Say that a run was asked to stop, and record it: who asks may kill us before we have left."""
    Console(stderr=True).print(
        "stopping at the next step that leaves a whole checkpoint; a second Ctrl-C stops at once",
        highlight=False,
        soft_wrap=True,
    )
    end_in(folder, "KILLED", handle)


def _check_same(run: Run, folder: Path, status: dict, manifest: Manifest) -> None:
    changed = _changed(run, folder, status, manifest)
    if changed:
        raise ConfigError(
            f"the unfinished run {where(folder)} was started differently: {'; '.join(changed)}. Repeat its settings to "
            f"resume it, start anew with --fresh, or give this run another name="
        )


def _changed(run: Run, folder: Path, status: dict, manifest: Manifest) -> list[str]:
    """Say which settings that matter for what is learnt a run does not share with the one in a folder."""
    before = flatten(read_run(folder / "run.yaml", type(run)).model_dump(mode="json"))
    now = flatten(run.model_dump(mode="json"))
    changed = [
        f"{path} was {before.get(path)!r}, is {now.get(path)!r}"
        for path in sorted(before.keys() | now.keys())
        if before.get(path) != now.get(path) and not path.startswith(FREE_TO_CHANGE)
    ]
    if status.get("manifest_hash") not in (None, manifest.hash):
        changed.append(f"the content of {manifest.name} has changed")
    return changed


def _record_failure(folder: Path, error: BaseException) -> str:
    """Write the traceback to a file; return the one message for the user."""
    text = without_credentials("".join(traceback.format_exception(error)))
    write_text(folder / "error.log", text, insist=False)
    if isinstance(error, (*RUN_ERRORS, RunFailedError)):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else ''} (tracebacks: {where(folder)}/error*.log)"
