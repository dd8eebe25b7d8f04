"""What a run shows to people: metrics and files in MLflow, a bar in the terminal, pictures."""

from tats_ray.tracking.base import DatasetRecord, NullTracker, RunHandle, Tracker, TrackingConfig, TrackingError

__all__ = ["DatasetRecord", "NullTracker", "RunHandle", "Tracker", "TrackingConfig", "TrackingError"]
