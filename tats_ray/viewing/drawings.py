"""What pictures show of a clip as several checkpoints see it: rows of videos by label, and their legends."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tats_ray.tracking.figures import Footer
from tats_ray.tracking.overlays import ColourScale, Video, frame_tokens, heat_overlay, paint, show_tokens
from tats_ray.viewing.look import AttentionPath, Look, token_place

MIN_SIDE, MIN_TOKEN_SIDE = 96, 8  # pixels that a frame and a token are shown at, at least
UNIFORM = "random"  # the row of random tokens, which no checkpoint is called
CYAN, WHITE = (0, 229, 255), (255, 255, 255)


@dataclass(frozen=True)
class Drawing:
    """What one picture shows."""

    rows: Mapping[str, Video]
    footer: Footer = ()


def draw_all(shown: Video, looks: Mapping[str, Look]) -> dict[str, Drawing]:
    """Return the pictures of a clip that can be drawn for these checkpoints, by name."""
    kinds: dict[str, Callable[[Video, Mapping[str, Look]], Drawing | None]] = {
        "tokens": draw_tokens,
        "policy": draw_policy,
        "reconstruction": draw_reconstruction,
        "error": draw_error,
        "path": draw_path,
    }
    drawn = {name: draw(shown, looks) for name, draw in kinds.items()}
    return {name: drawing for name, drawing in drawn.items() if drawing is not None}


def draw_tokens(shown: Video, looks: Mapping[str, Look]) -> Drawing:
    """The clip, random tokens from the same noise, and each sampler's tokens and probabilities."""
    first = next(iter(looks.values())).snapshot
    rows = {"clip": shown, f"{UNIFORM}: tokens": show_tokens(shown, first.random_idx, first.grid)}
    for name, seen in looks.items():
        snapshot = seen.snapshot
        rows[f"{name}: tokens"] = show_tokens(shown, snapshot.visible_idx, snapshot.grid)
        if snapshot.probability is not None:
            rows[f"{name}: probability"] = heat_overlay(shown, snapshot.probability, snapshot.grid)
    return Drawing(rows)


def draw_policy(shown: Video, looks: Mapping[str, Look]) -> Drawing | None:
    """Each policy's probabilities on one scale, relative to uniform drawing; None where there is no policy."""
    relative = {
        name: (seen.snapshot.probability * seen.snapshot.grid.num_tokens, seen.snapshot.grid)
        for name, seen in looks.items()
        if seen.snapshot.probability is not None
    }
    if not relative:
        return None
    scale = ColourScale.over("probability, over that of uniform drawing", *(values for values, _ in relative.values()))
    painted = {f"{name}: policy": paint(shown, values, grid, scale) for name, (values, grid) in relative.items()}
    return Drawing({"clip": shown, **painted}, [scale])


def draw_reconstruction(shown: Video, looks: Mapping[str, Look]) -> Drawing:
    """What each model sees, what it predicts alone, and that with the true patch statistics."""
    side = max(seen.snapshot.video.shape[1] for seen in looks.values())
    rows = {"original": _resized(next(iter(looks.values())).snapshot.video, side)}
    for name, seen in looks.items():
        assert seen.snapshot.prediction is not None  # look.py opens no others
        assert seen.snapshot.restored is not None
        rows[f"{name}: prediction alone"] = _resized(seen.snapshot.prediction, side)
        rows[f"{name}: with true patch statistics"] = _resized(seen.snapshot.restored, side)
    lines = [
        "black: drawn by the checkpoint, so not predicted",
        "alone: normalised pixels around grey, without the mean and contrast of the patch",
    ]
    return Drawing(rows, lines)


def draw_error(shown: Video, looks: Mapping[str, Look]) -> Drawing:
    """Each model's error on a random mask, and its critic's guess, all on one scale."""
    known = [values for seen in looks.values() for values in (seen.error, seen.critic) if values is not None]
    scale = ColourScale.over("error of a hidden token, over the mean of the clip's hidden tokens", *known)
    rows = {"clip": shown}
    for name, seen in looks.items():
        rows[f"{name}: error"] = paint(shown, seen.error, seen.snapshot.grid, scale)
        if seen.critic is not None:
            rows[f"{name}: critic"] = paint(shown, seen.critic, seen.snapshot.grid, scale)
    return Drawing(rows, [scale, "in colour: visible, by a random mask; the critic guesses the error of every token"])


def draw_path(shown: Video, looks: Mapping[str, Look]) -> Drawing | None:
    """Where each checkpoint's token looks in every frame; None where there is no trajectory attention."""
    paths = {name: (seen.path, seen.snapshot.grid) for name, seen in looks.items() if seen.path is not None}
    if not paths:
        return None
    relative = {name: path.weight * grid.slot_tokens for name, (path, grid) in paths.items()}
    scale = ColourScale.over("attention, over an even share of the frame's", *relative.values())
    rows = {"clip": shown}
    for name, (path, grid) in paths.items():
        place = ",".join(map(str, token_place(path.token, grid)))
        heat = paint(shown, relative[name], grid, scale)
        marked = frame_tokens(heat, _strongest(path, grid.time), grid, colour=WHITE)
        rows[f"{name}: path of {place}"] = frame_tokens(marked, [path.token], grid, colour=CYAN)
    lines = ["cyan: the token that looks (time slot, row, column)", "white: where it looks most in each time slot"]
    return Drawing(rows, [scale, *lines])


def shown_side(sides: Sequence[int]) -> int:
    """Return pixels that divide into each of these numbers of tokens: 96 or more, and 8 a token or more."""
    step = math.lcm(*sides)
    return step * math.ceil(max(MIN_SIDE, MIN_TOKEN_SIDE * max(sides)) / step)


def _strongest(path: AttentionPath, num_slots: int) -> np.ndarray:
    """Return the token of each time slot that gets most attention, ``[time]``."""
    slots = path.weight.reshape(num_slots, -1)
    return slots.argmax(1) + np.arange(num_slots) * slots.shape[1]


def _resized(video: Video, side: int) -> Video:
    """Repeat pixels until a square video has this side, which is no smaller than its own."""
    at = np.arange(side) * video.shape[1] // side
    return video[:, at][:, :, at]
