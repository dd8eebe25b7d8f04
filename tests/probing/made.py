"""A run's folder with a checkpoint of drawn weights, and labelled synthetic videos; other folders run this file."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tats_ray.config.files import to_yaml
from tats_ray.config.run import TrainRun
from tats_ray.data.listing import list_sources
from tats_ray.data.manifest import Manifest
from tats_ray.data.probe import probe_record
from tats_ray.data.synthetic import SyntheticConfig, make_videos
from tats_ray.training.state import capture, write_checkpoint
from tats_ray.worker import build

STEP = 7
NUM_CLASSES = 3


@dataclass(frozen=True)
class Made:
    """What an evaluation starts from."""

    folder: Path
    """Of the run."""
    checkpoint: Path
    pretraining: Path
    """Manifests: pre-trained on, ..."""
    train: Path
    test: Path


def make(folder: Path, small_run: Callable[..., TrainRun], *, knobs: dict | None = None) -> Made:
    """Make 5 videos of the pre-training, 9 to train probes on and 6 to test them on, of three classes in turn."""
    manifests = {}
    for seed, (name, count) in enumerate({"pretraining": 5, "train": 9, "test": 6}.items()):
        videos = folder / f"{name}_videos"
        make_videos(videos, SyntheticConfig(num_videos=count, frames=10, size=32, seed=seed))
        records = [probe_record(source, label=None) for source, _ in list_sources(videos)]
        labelled = [replace(record, label=number % NUM_CLASSES) for number, record in enumerate(records)]
        manifests[name] = folder / f"{name}.parquet"
        Manifest.of(labelled).write(manifests[name])
    run = small_run("probed", manifest=manifests["pretraining"], results=folder / "results", knobs=knobs)
    place = folder / "results" / "probed" / "0001"
    method = build(run, 1, torch.device("cpu"))
    captured = capture(step=STEP, modules=method.modules(), trainables={}, state={}, measured={}, run_id="parent")
    checkpoint = write_checkpoint(place / "checkpoints", captured)
    (place / "run.yaml").write_text(to_yaml(run))
    return Made(place, checkpoint, manifests["pretraining"], manifests["train"], manifests["test"])
