"""How MLflow is called: from one thread, within bounds of time, quietly, and with errors that a user can act on."""

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from mlflow.exceptions import MlflowException

from tats_ray.tracking.base import TrackingError
from tats_ray.tracking.store import is_database, without_credentials
from tats_ray.tracking.writer import root_cause

P = ParamSpec("P")
T = TypeVar("T")

_talking = ThreadPoolExecutor(1, thread_name_prefix="mlflow")


def undisturbed(function: Callable[P, T]) -> Callable[P, T]:
    """Call a function in the one thread that talks to MLflow.

    A signal then interrupts the caller, who waits, and not a transaction: one that is left open would lock the database
    against the very call that records the interruption.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return _talking.submit(function, *args, **kwargs).result()

    return call


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into one that a user can act on, without the credentials MLflow's own message may hold."""
    try:
        yield
    except MlflowException as error:
        cause = root_cause(error)
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


@contextmanager
def patience(*, seconds: int, retries: int) -> Iterator[None]:
    """Bound how long a server may keep us waiting, where the user has not: by default MLflow retries for minutes."""
    bounds = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries)}
    ours = {name: value for name, value in bounds.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def be_quiet() -> None:
    """Keep MLflow's chatter, which would break the progress bar, out of the terminal."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # retries: their outcome is told here
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback of what it raises as well
