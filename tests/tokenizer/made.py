"""A tokenizer's run with a checkpoint of drawn weights, and videos to encode; other folders run this file."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from tats_ray.config.files import to_yaml
from tats_ray.config.overrides import change
from tats_ray.config.tokenizer_run import TokenizerRun
from tats_ray.data.listing import list_sources
from tats_ray.data.manifest import Manifest
from tats_ray.data.probe import probe_record
from tats_ray.recipes import tokenizer_recipe
from tats_ray.tracking.video_file import write_mp4
from tats_ray.training.state import capture, write_checkpoint
from tats_ray.worker import build

SMALL: Mapping[str, object] = {
    "cluster.num_workers": 0,
    "cluster.use_gpu": False,
    "data.num_frames": 4,
    "data.frame_stride": 1,
    "data.crop_size": 16,
    "data.held_out": 2,
    "tokenizer.base_channels": 4,
    "tokenizer.channel_multipliers": [1, 1, 1],
    "tokenizer.stem_halvings": 0,
    "tokenizer.keep_ratio": 0.75,
    "tokenizer.scorer_widths": [4, 4],
    "tokenizer.samples": 4,
    "training.steps": 4,
    "training.global_batch": 2,
    "training.micro_batch": 2,
    "training.validate_every": 2,
    "training.picture_every": 4,
    "training.checkpoint_every": 2,
    "tracking.log_every": 1,
}


def small_tokenizer(results: Path, *, seed: int = 0) -> TokenizerRun:
    """Return a run of four steps."""
    return change(tokenizer_recipe("tokenizer-tiny"), {**SMALL, "results": str(results), "seed": seed}.items())


def save_tokenizer(results: Path, *, seed: int = 0) -> Path:
    """Write the folder of a run that has ended, with weights as they are drawn."""
    run = small_tokenizer(results, seed=seed)
    method = build(run, 4, torch.device("cpu"))
    folder = results / run.name / f"{seed + 1:04d}"
    captured = capture(
        step=4, modules=method.modules(), trainables={}, state={}, measured={}, run_id=None, identity=method.identity()
    )
    write_checkpoint(folder / "checkpoints", captured)
    (folder / "run.yaml").write_text(to_yaml(run))
    return folder


def write_videos(folder: Path, *, count: int = 5, frames: int = 14) -> Path:
    """Make videos of noise that drifts, half as wide again as high; return their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (8, 24, 3), dtype=np.uint8)
        wide = noise.repeat(4, axis=0).repeat(4, axis=1)
        write_mp4([wide[:, frame : frame + 48] for frame in range(frames)], folder / f"{number}.mp4", fps=12)
    path = folder / "videos.parquet"
    Manifest.of([probe_record(source, label=None) for source, _ in list_sources(folder)]).write(path)
    return path
