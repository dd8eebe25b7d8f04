"""MLflow: the driver opens and ends a run, the first worker records into it.

The driver makes database, experiment and run before any worker starts: processes that make one SQLite file together
all fail. Nothing of MLflow's fluent state is used, since it does not cross processes; a ``RunHandle`` does.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from tats_ray.interruption import Ending
from tats_ray.tracking.base import DatasetRecord, RunHandle, TrackingConfig, TrackingError
from tats_ray.tracking.calling import be_quiet, explained, patience, undisturbed
from tats_ray.tracking.provenance import dotted_params, provenance_tags
from tats_ray.tracking.store import artifact_location, check_database, first_use, resolve_uri, without_credentials
from tats_ray.tracking.unsent import Unsent
from tats_ray.tracking.writer import (
    CLOSE_SECONDS,
    FILES_FILE,
    POINTS_FILE,
    RETRY_SECONDS,
    BackgroundTracker,
    Point,
    Sender,
)

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_DIGEST_LENGTH = 36  # MLflow's limits: characters of a digest, params of one request
_PARAMS_PER_BATCH = 100

ENDING_FILE = "unsent_ending.json"
"""Name, in the run's folder, of how it ended, while the store does not know it."""

_logger = logging.getLogger(__name__)

_MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on runs, not on traces


@undisturbed
def open_run(
    config: TrackingConfig,
    *,
    results_root: Path,
    folder: Path,
    params: Mapping[str, Any],
    dataset: DatasetRecord | None = None,
    run_id: str | None = None,
    parent_run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    description: str | None = None,
) -> RunHandle:
    """Start a run, or go on with ``run_id``; called by the driver before any worker starts.

    Args:
        config: Which store and which experiment.
        results_root: Absolute folder for ``mlflow.db`` and ``mlartifacts`` when no server keeps them.
        folder: Of the run, where points wait while the store is away; it exists and lies where the workers see it.
        params: The resolved config, nested; recorded under dotted paths. A run that goes on keeps its first values.
        dataset: What the run trains on, recorded as an input.
        run_id: Of a run to go on with; its status becomes RUNNING again.
        parent_run_id: The run that a new one is nested in, whose sweep or comparison is its own as well.
        tags: Recorded beside commit, versions and hardware.
        description: Shown on the page of a new run, as Markdown; of one that goes on, what people wrote there stays.

    Raises:
        TrackingError: The store does not answer within seconds, refuses us, cannot be written, or lacks the run.
        ValueError: The tracking URI or the results root is relative.
    """
    be_quiet()
    uri = resolve_uri(config.uri, results_root=results_root)
    with first_use(uri):
        check_database(uri)
        client = MlflowClient(uri)
        with explained(uri), patience(seconds=4, retries=0):  # the first call: is anybody there?
            experiment_id = _experiment_id(client, config, uri=uri, results_root=results_root)
    with explained(uri), patience(seconds=30, retries=1):
        if run_id is not None:
            run = _continued(client, run_id, uri=uri)
        else:
            given = _family(client, parent_run_id) if parent_run_id is not None else {}
            if description is not None:
                given["mlflow.note.content"] = without_credentials(description)
            run = client.create_run(experiment_id, run_name=config.run_name, tags=given)
        _log_params(client, run, dotted_params(params))
        _log_tags(client, run, {**provenance_tags(), **(tags or {})})
        if dataset is not None:
            client.log_inputs(run.info.run_id, [_dataset_input(dataset)])
    (folder / ENDING_FILE).unlink(missing_ok=True)  # it goes on
    return RunHandle(uri=uri, run_id=run.info.run_id, experiment_id=run.info.experiment_id, folder=folder)


def end_run(handle: RunHandle, *, status: Ending, reason: str | None = None, milliseconds: int | None = None) -> None:
    """Close a run with its true end, and send what its workers could not; called by the driver.

    Args:
        handle: The run.
        status: How it ended.
        reason: Why it failed; recorded as the tag ``tats.error``.
        milliseconds: When it ended, since 1970; None is now.

    Raises:
        TrackingError: The store does not answer within seconds. The ending waits in the run's folder for
            :func:`send_left_over`, and so do the points.
    """
    milliseconds = milliseconds or int(time.time() * 1000)
    reason = None if reason is None else without_credentials(reason)
    ending = None if handle.folder is None else handle.folder / ENDING_FILE
    try:
        _terminate(handle, status, reason, milliseconds)  # first: a job that is stopped has few seconds
    except TrackingError:
        if ending is not None:
            told = {"run_id": handle.run_id, "status": status, "reason": reason, "milliseconds": milliseconds}
            ending.write_text(json.dumps(told))
        raise
    if handle.folder is not None and ending is not None:
        ending.unlink(missing_ok=True)
        sender = Sender(_RunStore(handle), handle.folder)
        if why := sender.send():
            raise TrackingError(f"it is closed, and does not take what waits in {handle.folder}/unsent*.jsonl: {why}")


def send_left_over(uri: str, *, results_root: Path) -> None:
    """Send what earlier runs below a folder of results could not; a store that does not take it is told in a warning.

    Args:
        uri: The store, which answers.
        results_root: Where the runs lie, and the evaluations below them.
    """
    found = [*results_root.glob("*/*/unsent*"), *results_root.glob("*/*/evaluations/*/unsent*")]
    for folder in sorted({path.parent for path in found}):
        _send_left_over(uri, folder)


def _send_left_over(uri: str, folder: Path) -> None:
    try:
        ending = json.loads((folder / ENDING_FILE).read_text()) if (folder / ENDING_FILE).exists() else None
        entries = [ending] if ending else [*Unsent(folder / POINTS_FILE).read(1), *Unsent(folder / FILES_FILE).read(1)]
    except (OSError, ValueError) as error:
        _logger.warning("what waits in %s/unsent* cannot be read: %s", folder, error)
        return
    if not entries:  # sent meanwhile, by the run itself
        return
    handle = RunHandle(uri=uri, run_id=entries[0]["run_id"], experiment_id="", folder=folder)
    why = Sender(_RunStore(handle), folder).send()
    if why is None and ending is not None:
        try:
            end_run(handle, status=ending["status"], reason=ending["reason"], milliseconds=ending["milliseconds"])
        except TrackingError as error:
            why = str(error)
    if why is not None:
        _logger.warning("MLflow does not take what waits in %s/unsent*: %s", folder, why)


@undisturbed
def _terminate(handle: RunHandle, status: Ending, reason: str | None, milliseconds: int) -> None:
    with explained(handle.uri), patience(seconds=4, retries=1):
        client = MlflowClient(handle.uri)
        if reason is not None:
            client.set_tag(handle.run_id, "tats.error", reason)
        client.set_terminated(handle.run_id, status, milliseconds)


@undisturbed
def tag_run(handle: RunHandle, tags: Mapping[str, str]) -> None:
    """Set tags of a run.

    Raises:
        TrackingError: The store does not answer within seconds, or lacks the run.
    """
    with explained(handle.uri), patience(seconds=4, retries=1):
        for name, value in tags.items():
            MlflowClient(handle.uri).set_tag(handle.run_id, name, without_credentials(value))


@undisturbed
def run_status(handle: RunHandle) -> RunStatus:
    """Ask the store how a run ended, or whether it is running.

    Raises:
        TrackingError: The store does not answer within seconds, or lacks the run.
    """
    with explained(handle.uri), patience(seconds=4, retries=1):
        return cast(RunStatus, MlflowClient(handle.uri).get_run(handle.run_id).info.status)


@undisturbed
def read_metric(handle: RunHandle, name: str) -> list[tuple[int, float]]:
    """Return step and value of every point of a metric, in order of the steps; empty when there is none.

    Raises:
        TrackingError: The store does not answer within seconds, or lacks the run.
    """
    with explained(handle.uri), patience(seconds=10, retries=1):
        points = MlflowClient(handle.uri).get_metric_history(handle.run_id, name)
    return sorted((point.step, point.value) for point in points)


class MlflowTracker(BackgroundTracker):
    """Records one run in MLflow from the first worker, in a thread of its own.

    Args:
        handle: The run, opened by the driver.
        retry_seconds: Between two tries at a store that is locked or away.
        close_seconds: How long closing waits at most.

    Raises:
        ValueError: The handle names no folder.
    """

    def __init__(
        self, handle: RunHandle, *, retry_seconds: float = RETRY_SECONDS, close_seconds: float = CLOSE_SECONDS
    ) -> None:
        if handle.folder is None:
            raise ValueError("handle names no folder, where points wait while the store is away; open_run gives it one")
        be_quiet()
        super().__init__(
            _RunStore(handle),
            run_id=handle.run_id,
            folder=handle.folder,
            retry_seconds=retry_seconds,
            close_seconds=close_seconds,
        )


class _RunStore:
    """One run of an MLflow store, as sending sees it."""

    def __init__(self, handle: RunHandle) -> None:
        self._handle = handle

    @undisturbed
    def last_steps(self) -> Mapping[str, int]:
        """Return the highest step of each metric."""
        with explained(self._handle.uri), patience(seconds=4, retries=1):
            latest = MlflowClient(self._handle.uri).get_run(self._handle.run_id).data.to_proto().metrics
        return {metric.key: metric.step for metric in latest}

    @undisturbed
    def send_points(self, points: Sequence[Point]) -> None:
        """Store points in one transaction; MLflow's key of a point is all of it."""
        metrics = [Metric(point.name, point.value, point.milliseconds, point.step) for point in points]
        with patience(seconds=3, retries=0):
            MlflowClient(self._handle.uri).log_batch(self._handle.run_id, metrics=metrics, synchronous=True)

    @undisturbed
    def send_file(self, path: Path, folder: str) -> None:
        """Store an artifact."""
        with patience(seconds=3, retries=0):
            MlflowClient(self._handle.uri).log_artifact(self._handle.run_id, str(path), folder)


def _experiment_id(client: MlflowClient, config: TrackingConfig, *, uri: str, results_root: Path) -> str:
    found = client.get_experiment_by_name(config.experiment)
    if found is None:
        # Without a server MLflow would keep artifacts under whatever directory the first process ran in, for ever.
        location = artifact_location(uri, results_root=results_root)
        return client.create_experiment(config.experiment, artifact_location=location, tags=_MODEL_TRAINING)
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"MLflow experiment {config.experiment!r} was deleted; restore it or set tracking.experiment to another"
        )
    return found.experiment_id


def _family(client: MlflowClient, parent_run_id: str) -> dict[str, str]:
    """Return the tags that place a new run below another, which may lie in another store."""
    try:
        above = client.get_run(parent_run_id).data.tags
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        above = {}
    shared = {name: above[name] for name in ("tats.sweep", "tats.comparison") if name in above}
    return {"mlflow.parentRunId": parent_run_id, **shared}


def _continued(client: MlflowClient, run_id: str, *, uri: str) -> Run:
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise TrackingError(
            f"MLflow run {run_id} is not in {without_credentials(uri)}; set tracking.uri or MLFLOW_TRACKING_URI to the "
            "store in which it began, or start a new run"
        ) from None
    if run.info.lifecycle_stage == "deleted":
        raise TrackingError(f"MLflow run {run_id} was deleted; restore it, or start a new run")
    client.update_run(run_id, status="RUNNING")
    return run


def _log_params(client: MlflowClient, run: Run, params: Mapping[str, str]) -> None:
    """Record the params a run does not have; a recorded one cannot change in MLflow."""
    recorded = run.data.params
    if changed := sorted(name for name, value in params.items() if recorded.get(name, value) != value):
        _logger.warning("MLflow keeps the first values of %s for run %s", ", ".join(changed), run.info.run_id)
    missing = [Param(name, value) for name, value in params.items() if name not in recorded]
    for start in range(0, len(missing), _PARAMS_PER_BATCH):
        client.log_batch(run.info.run_id, params=missing[start : start + _PARAMS_PER_BATCH])


def _log_tags(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> None:
    shown = [RunTag(name, without_credentials(value)) for name, value in tags.items()]
    client.log_batch(run.info.run_id, tags=shown)


def _dataset_input(dataset: DatasetRecord) -> DatasetInput:
    source = json.dumps({"uri": without_credentials(dataset.source)})
    entity = Dataset(dataset.name, dataset.digest[:_DIGEST_LENGTH], source_type="local", source=source)
    return DatasetInput(entity, tags=[InputTag("mlflow.data.context", "train")])
