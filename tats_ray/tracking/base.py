"""What training asks of a tracker, and the plain data of tracking; nothing here needs MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field


class TrackingConfig(BaseModel):
    """Where a run is recorded, and how often."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    uri: str | None = None
    """MLflow tracking URI; null takes MLFLOW_TRACKING_URI, else a SQLite file in the results root."""
    experiment: str = Field(default="tats_ray", min_length=1)
    """MLflow experiment the run belongs to; made when it does not exist."""
    run_name: str | None = None
    """Name of the run in the UI; null lets MLflow invent one."""
    log_every: int = Field(default=10, ge=1)
    """Training steps between two points of a metric."""


@dataclass(frozen=True)
class RunHandle:
    """Names one run of one store; small and picklable, made by the driver and handed to the workers.

    ``uri`` may carry a password: it is left out of the representation, and whoever shows it strips it first.
    """

    uri: str = field(repr=False)
    run_id: str
    experiment_id: str
    folder: Path | None = None
    """Of the run, on storage that driver and workers see: there waits what the store does not take. None only reads."""


@dataclass(frozen=True)
class DatasetRecord:
    """The manifest a run trains on, as MLflow lists it."""

    name: str
    digest: str
    """Hash of the manifest; MLflow keeps the first 36 characters."""
    source: str
    """Where the manifest lies: an absolute path or a URI."""


class TrackingError(RuntimeError):
    """The store of a run cannot be used; the message says which store, why, and the way out."""


class Tracker(Protocol):
    """Records one run.

    The steps of a metric strictly increase. After a restart a stretch of steps is trained again, so a point at or below
    the last recorded step of its metric is dropped.
    """

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record one point of each metric; ``step`` counts training steps from the start of the run."""
        ...

    def log_file(self, path: Path, *, folder: str) -> None:
        """Record a file that exists and stays; one of the same name in the same folder is replaced."""
        ...

    def close(self) -> None:
        """Send what still waits to be sent."""
        ...


class NullTracker:
    """Records nothing: for every rank but the first, and for tests."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record nothing."""

    def log_file(self, path: Path, *, folder: str) -> None:
        """Record nothing."""

    def close(self) -> None:
        """Nothing waits."""
