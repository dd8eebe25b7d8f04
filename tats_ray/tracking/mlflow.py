"""MLflow: the driver opens and ends a run, the first worker records into it; the only file that imports mlflow.

The driver makes database, experiment and run before any worker starts: processes that make one SQLite file together
all fail. Nothing of MLflow's fluent state is used, since it does not cross processes; a ``RunHandle`` does.
"""

import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, cast

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from tats_ray.tracking.base import DatasetRecord, RunHandle, TrackingConfig, TrackingError
from tats_ray.tracking.provenance import dotted_params, provenance_tags
from tats_ray.tracking.store import check_database, first_use, is_database, resolve_uri, without_credentials

P = ParamSpec("P")
T = TypeVar("T")
RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_DIGEST_LENGTH = 36  # MLflow's limits: characters of a digest, params and metrics of one request
_PARAMS_PER_BATCH = 100
_METRICS_PER_BATCH = 1000
_RETRY_SECONDS = 30.0
_MAX_WAITING_POINTS = 20_000
_MAX_WAITING_FILES = 1_000

_logger = logging.getLogger(__name__)

_MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on runs, not on traces

_talking = ThreadPoolExecutor(1, thread_name_prefix="mlflow")


def _undisturbed(function: Callable[P, T]) -> Callable[P, T]:
    """Call a function in the one thread that talks to MLflow.

    A signal then interrupts the caller, who waits, and not a transaction: one that is left open would lock the database
    against the very call that records the interruption.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return _talking.submit(function, *args, **kwargs).result()

    return call


@_undisturbed
def open_run(
    config: TrackingConfig,
    *,
    results_root: Path,
    params: Mapping[str, Any],
    dataset: DatasetRecord | None = None,
    run_id: str | None = None,
    parent_run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> RunHandle:
    """Start a run, or go on with ``run_id``; called by the driver before any worker starts.

    Args:
        config: Which store and which experiment.
        results_root: Absolute folder for ``mlflow.db`` and ``mlartifacts`` when no server keeps them.
        params: The resolved config, nested; recorded under dotted paths. A run that goes on keeps its first values.
        dataset: What the run trains on, recorded as an input.
        run_id: Of a run to go on with; its status becomes RUNNING again.
        parent_run_id: The sweep a new run belongs to.
        tags: Recorded beside commit, versions and hardware.

    Raises:
        TrackingError: The store does not answer within seconds, refuses us, cannot be written, or lacks the run.
        ValueError: The tracking URI or the results root is relative.
    """
    _be_quiet()
    uri = resolve_uri(config.uri, results_root=results_root)
    with first_use(uri):
        check_database(uri)
        client = MlflowClient(uri)
        with _explained(uri), _patience(seconds=4, retries=0):  # the first call: is anybody there?
            experiment_id = _experiment_id(client, config, uri=uri, results_root=results_root)
    with _explained(uri), _patience(seconds=30, retries=1):
        if run_id is not None:
            run = _continued(client, run_id, uri=uri)
        else:
            parent = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
            run = client.create_run(experiment_id, run_name=config.run_name, tags=parent)
        _log_params(client, run, dotted_params(params))
        _log_tags(client, run, {**provenance_tags(), **(tags or {})})
        if dataset is not None:
            client.log_inputs(run.info.run_id, [_dataset_input(dataset)])
    return RunHandle(uri=uri, run_id=run.info.run_id, experiment_id=run.info.experiment_id)


@_undisturbed
def end_run(
    handle: RunHandle,
    *,
    status: Literal["FINISHED", "FAILED", "KILLED"],
    reason: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Close a run with its true end; called by the driver, whatever became of the workers.

    Args:
        handle: The run.
        status: How it ended.
        reason: Why it failed; recorded as the tag ``tats.error``.
        tags: What is known of it at its end only.

    Raises:
        TrackingError: The store does not answer within seconds; the run stays as it was.
    """
    with _explained(handle.uri), _patience(seconds=4, retries=1):
        client = MlflowClient(handle.uri)
        if reason is not None:
            client.set_tag(handle.run_id, "tats.error", without_credentials(reason))
        for name, value in (tags or {}).items():
            client.set_tag(handle.run_id, name, value)
        client.set_terminated(handle.run_id, status)


@_undisturbed
def run_status(handle: RunHandle) -> RunStatus:
    """Ask the store how a run ended, or whether it is running.

    Raises:
        TrackingError: The store does not answer within seconds, or lacks the run.
    """
    with _explained(handle.uri), _patience(seconds=4, retries=1):
        return cast(RunStatus, MlflowClient(handle.uri).get_run(handle.run_id).info.status)


@_undisturbed
def read_metric(handle: RunHandle, name: str) -> list[tuple[int, float]]:
    """Return step and value of every point of a metric, in order of the steps; empty when there is none.

    Raises:
        TrackingError: The store does not answer within seconds, or lacks the run.
    """
    with _explained(handle.uri), _patience(seconds=10, retries=1):
        points = MlflowClient(handle.uri).get_metric_history(handle.run_id, name)
    return sorted((point.step, point.value) for point in points)


class MlflowTracker:
    """Records one run from the first worker; training never stops for it.

    While the store is away, points and files wait in memory; it is asked again every 30 s and at the end.

    Args:
        handle: The run, opened by the driver.
        clock: Seconds, for the pace of the retries.

    Raises:
        TrackingError: The store does not answer at the start: without the last recorded steps, points would be doubled.
    """

    def __init__(self, handle: RunHandle, *, clock: Callable[[], float] = time.monotonic) -> None:
        _be_quiet()
        self._run_id = handle.run_id
        self._client = MlflowClient(handle.uri)
        self._clock = clock
        self._last_step = _last_steps(self._client, handle)
        self._points: deque[Metric] = deque(maxlen=_MAX_WAITING_POINTS)
        self._files: deque[tuple[Path, str]] = deque(maxlen=_MAX_WAITING_FILES)
        self._lost = 0
        self._away_until: float | None = None

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record one point of each metric in one request; blocks for a few seconds at most."""
        milliseconds = int(time.time() * 1000)
        for name, value in metrics.items():
            if step > self._last_step.get(name, -1):
                self._last_step[name] = step
                self._lost += len(self._points) == self._points.maxlen
                # A retried point keeps its time, by which the store knows that it has it already.
                self._points.append(Metric(name, float(value), milliseconds, step))
        self._send_when_due()

    def log_file(self, path: Path, *, folder: str) -> None:
        """Record a file in a folder of the run's artifacts.

        Raises:
            ValueError: There is no such file.
        """
        if not path.is_file():
            raise ValueError(f"path must be an existing file, got {path}")
        self._lost += len(self._files) == self._files.maxlen
        self._files.append((path, folder))
        self._send_when_due()

    def close(self) -> None:
        """Send what waits, with a last try at a store that was away."""
        self._away_until = None if self._away_until is None else self._clock()
        self._send_when_due()
        if lost := self._lost + len(self._points) + len(self._files):
            _logger.warning("MLflow run %s lacks %d points and files, since its store was away", self._run_id, lost)

    @_undisturbed
    def _send_when_due(self) -> None:
        if self._away_until is not None and self._clock() < self._away_until:
            return
        try:
            with _patience(seconds=3, retries=0):
                self._send_points()
                self._send_files()
        except Exception as error:
            # Broad on purpose: stores raise what their clients raise (requests, sqlalchemy, boto3, the file system),
            # and a run that has cost hours outlives its record.
            if self._away_until is None:
                _logger.warning(
                    "MLflow does not take run %s's points (%s); they wait in memory and training goes on",
                    self._run_id,
                    without_credentials(str(_root_cause(error))),
                )
            self._away_until = self._clock() + _RETRY_SECONDS
        else:
            self._away_until = None

    def _send_points(self) -> None:
        while self._points:
            batch = list(islice(self._points, _METRICS_PER_BATCH))
            self._client.log_batch(self._run_id, metrics=batch, synchronous=True)
            for _ in batch:
                self._points.popleft()

    def _send_files(self) -> None:
        while self._files:
            path, folder = self._files[0]
            if path.is_file():
                self._client.log_artifact(self._run_id, str(path), folder)
            else:
                self._lost += 1
            self._files.popleft()


@_undisturbed
def _last_steps(client: MlflowClient, handle: RunHandle) -> dict[str, int]:
    with _explained(handle.uri), _patience(seconds=4, retries=1):
        latest = client.get_run(handle.run_id).data.to_proto().metrics
    return {metric.key: metric.step for metric in latest}


def _experiment_id(client: MlflowClient, config: TrackingConfig, *, uri: str, results_root: Path) -> str:
    found = client.get_experiment_by_name(config.experiment)
    if found is None:
        # Without a server MLflow would keep artifacts under whatever directory the first process ran in, for ever.
        location = (results_root / "mlartifacts").as_uri() if is_database(uri) else None
        return client.create_experiment(config.experiment, artifact_location=location, tags=_MODEL_TRAINING)
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"MLflow experiment {config.experiment!r} was deleted; restore it or set tracking.experiment to another"
        )
    return found.experiment_id


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


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into one that a user can act on, without the credentials MLflow's own message may hold."""
    try:
        yield
    except MlflowException as error:
        cause = _root_cause(error)
        raise TrackingError(without_credentials(_explain(error, cause=cause, uri=uri))) from None


def _explain(error: MlflowException, *, cause: BaseException, uri: str) -> str:
    status = error.get_http_status_code()
    if is_database(uri):
        return f"MLflow database {uri}: {cause}"
    if status in (401, 403):
        return (
            f"MLflow server {uri} refuses this client ({status}): {cause}; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, or add this address to the server's --allowed-hosts"
        )
    if isinstance(cause, MlflowException):
        return f"MLflow server {uri} answers with an error: {cause}"
    return (
        f"MLflow server {uri} does not answer: {cause}; start it, or set tracking.uri or MLFLOW_TRACKING_URI to one "
        "that runs, or unset both to record into a local database"
    )


def _root_cause(error: BaseException) -> BaseException:
    """Follow the chain of causes."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return error


@contextmanager
def _patience(*, seconds: int, retries: int) -> Iterator[None]:
    """Bound how long a server may keep us waiting, where the user has not: by default MLflow retries for minutes."""
    bounds = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries)}
    ours = {name: value for name, value in bounds.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _be_quiet() -> None:
    """Keep MLflow's chatter, which would break the progress bar, out of the terminal."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # retries: their outcome is told here
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback of what it raises as well
