"""Pictures of a run: which tokens are drawn, and how well the hidden ones are rebuilt; PNG and animated GIF."""

from pathlib import Path

from tats_ray.methods.base import Snapshot
from tats_ray.tracking.figures import animate, save_sheet
from tats_ray.tracking.overlays import Video, heat_overlay, show_tokens

FPS = 8


def write_pictures(snapshot: Snapshot, folder: Path, *, step: int) -> list[Path]:
    """Write both sheets as PNG and GIF; return the files."""
    written = []
    for name, rows in (("tokens", token_rows(snapshot)), ("reconstruction", reconstruction_rows(snapshot))):
        stem = folder / f"{name}_step_{step:08d}"
        save_sheet(rows, stem.with_suffix(".png"), title=f"{name}, step {step}")
        animate(rows, stem.with_suffix(".gif"), fps=FPS)
        written += [stem.with_suffix(".png"), stem.with_suffix(".gif")]
    return written


def token_rows(snapshot: Snapshot) -> dict[str, Video]:
    """Return the clip, random tokens, and the sampler's tokens and probabilities."""
    video, grid = snapshot.video, snapshot.grid
    rows = {"clip": video, "random tokens": show_tokens(video, snapshot.random_idx, grid)}
    if snapshot.probability is None:
        return {**rows, "visible tokens": show_tokens(video, snapshot.visible_idx, grid)}
    return {
        **rows,
        "drawn tokens": show_tokens(video, snapshot.visible_idx, grid),
        "probability": heat_overlay(video, snapshot.probability, grid),
    }


def reconstruction_rows(snapshot: Snapshot) -> dict[str, Video]:
    """Return the prediction alone, with the true patch statistics, and the original."""
    return {
        "prediction alone": snapshot.prediction,
        "with true patch statistics": snapshot.restored,
        "original": snapshot.video,
    }
