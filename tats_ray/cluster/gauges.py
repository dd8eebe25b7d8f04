"""What a run shows to Prometheus, through the metrics port that Ray opens on each of its machines."""

from ray.util.metrics import Gauge

from tats_ray.tracking.progress import ProgressState

GAUGES = {
    "step": "Training steps done, from the start of the run.",
    "loss": "Reconstruction loss at the last log.",
    "clips_per_second": "Clips trained on each second, by all workers together.",
    "wait_share": "Share of the time spent waiting for clips, 0 to 1.",
    "failed_clips": "Clips that could not be decoded, from the start of the run.",
}
"""Fields of a ProgressState; Ray exports each as ``ray_tats_<name>``."""


class Gauges:
    """The gauges of one run, told apart by the tag ``run``; the first worker sets them."""

    def __init__(self, run: str) -> None:
        self._gauges = {
            name: Gauge(f"tats_{name}", description=text, tag_keys=("run",)) for name, text in GAUGES.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run})

    def show(self, state: ProgressState) -> None:
        """Set them all; Ray's agent fetches them when it is asked, so that nothing is sent here."""
        for name, gauge in self._gauges.items():
            gauge.set(float(getattr(state, name)))
