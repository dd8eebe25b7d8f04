"""How well a run rebuilds common random masks: a diagnostic, never a verdict, since no probe follows from it."""

from pathlib import Path

import torch

from tats_ray.comparison.judging import MASK_ERROR
from tats_ray.data.manifest import Manifest
from tats_ray.held_out import load_held_out
from tats_ray.training.context import LocalContext
from tats_ray.viewing.look import open_trained

RATIOS = (0.75, 0.9, 0.95)
MOST_CLIPS = 256


def random_mask_errors(trained_run: Path, videos: Manifest, *, device: torch.device) -> dict[str, float]:
    """Return the mean error at each of ``RATIOS`` on the middle clips of the first videos, on masks that all share."""
    trained = open_trained(trained_run)
    for module in trained.method.modules().values():
        module.to(device)
    few = videos.select(range(min(MOST_CLIPS, len(videos))))
    held_out = load_held_out(trained.run.model_copy(update={"seed": 0}), few, LocalContext(device))
    return {
        f"{MASK_ERROR}_{100 * ratio:.0f}": trained.method.random_mask_error(held_out, mask_ratio=ratio).mean().item()
        for ratio in RATIOS
    }
