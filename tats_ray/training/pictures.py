"""Pictures of a run: which tokens are drawn or kept, and how well clips are rebuilt; PNG and animated GIF."""

from collections.abc import Mapping
from pathlib import Path

from tats_ray.methods.base import RebuiltSnapshot, Snapshot
from tats_ray.tracking.figures import animate, save_sheet
from tats_ray.tracking.overlays import Video, heat_overlay, show_tokens

FPS = 8


def write_pictures(snapshot: Snapshot | RebuiltSnapshot, folder: Path, *, step: int) -> list[Path]:
    """Write each sheet as PNG and GIF; return the files."""
    written = []
    for name, rows in sheets(snapshot).items():
        stem = folder / f"{name}_step_{step:08d}"
        save_sheet(rows, stem.with_suffix(".png"), title=f"{name}, step {step}")
        animate(rows, stem.with_suffix(".gif"), fps=FPS)
        written += [stem.with_suffix(".png"), stem.with_suffix(".gif")]
    return written


def sheets(snapshot: Snapshot | RebuiltSnapshot) -> Mapping[str, Mapping[str, Video]]:
    """Return the rows of each sheet by its name."""
    if isinstance(snapshot, RebuiltSnapshot):
        return {"reconstruction": rebuilt_rows(snapshot)}
    sheets = {"tokens": token_rows(snapshot), "reconstruction": reconstruction_rows(snapshot)}
    return {name: rows for name, rows in sheets.items() if rows}


def rebuilt_rows(snapshot: RebuiltSnapshot) -> dict[str, Video]:
    """Return the clip, what the tokenizer makes of it, and which of its tokens it needed."""
    video, grid = snapshot.video, snapshot.grid
    return {
        "original": video,
        "reconstruction": snapshot.rebuilt,
        "kept tokens": show_tokens(video, snapshot.kept_idx, grid),
        "importance": heat_overlay(video, snapshot.importance, grid),
    }


def token_rows(snapshot: Snapshot) -> dict[str, Video]:
    """Return the clip, random tokens, the sampler's tokens and probabilities, and which tokens the decoder predicts."""
    video, grid = snapshot.video, snapshot.grid
    rows = {"clip": video, "random tokens": show_tokens(video, snapshot.random_idx, grid)}
    if snapshot.probability is None:
        rows["visible tokens"] = show_tokens(video, snapshot.visible_idx, grid)
    else:
        rows["drawn tokens"] = show_tokens(video, snapshot.visible_idx, grid)
        rows["probability"] = heat_overlay(video, snapshot.probability, grid)
    if snapshot.target_idx is not None:
        rows["predicted tokens"] = show_tokens(video, snapshot.target_idx, grid)
    return rows


def reconstruction_rows(snapshot: Snapshot) -> dict[str, Video]:
    """Return the prediction alone, with the true patch statistics, and the original; nothing if it is no pixels."""
    if snapshot.prediction is None or snapshot.restored is None:
        return {}
    return {
        "prediction alone": snapshot.prediction,
        "with true patch statistics": snapshot.restored,
        "original": snapshot.video,
    }
