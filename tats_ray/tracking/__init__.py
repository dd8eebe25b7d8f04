"""What a run shows to people: metrics and files in MLflow, a bar in the terminal, pictures."""

import os

from tats_ray.tracking.base import DatasetRecord, NullTracker, RunHandle, Tracker, TrackingConfig, TrackingError

# MLflow reads it when it is imported, and otherwise tells its makers how it is used.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

__all__ = ["DatasetRecord", "NullTracker", "RunHandle", "Tracker", "TrackingConfig", "TrackingError"]
