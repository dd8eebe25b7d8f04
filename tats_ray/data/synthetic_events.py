"""Paths of sprites in two events far apart, whose order is the class of a synthetic video.

An event is a swing out and back, once along a row and once along a column; between both nothing moves. Frames and
single events are alike in both classes, so that only what links both events tells them apart.
"""

import numpy as np

EVENTS = ("horizontal-first", "vertical-first")
FEWEST_FRAMES = 32
"""Of a video with events: each then has four."""
LENGTH = 1 / 8
"""Of an event, as a share of the video."""
BEGINS = ((0, 1 / 4), (5 / 8, 7 / 8))
"""When the first and the second event begin, as shares of the video."""
SWING = (0.18, 0.3)
"""How far an event carries a sprite, in sides of the frame."""


def event_begins(rng: np.random.Generator, *, frames: int) -> np.ndarray:
    """Draw the first frames of both events of a video: float [2]."""
    return frames * rng.uniform(*np.array(BEGINS).T)


def event_path(
    rng: np.random.Generator, *, frames: int, size: int, radius: float, label: int, begins: np.ndarray
) -> np.ndarray:
    """Draw the centres of a sprite, wholly inside the frame, that moves as a class says: float [frames, 2]."""
    share = (np.arange(frames)[:, None] - begins) / (LENGTH * frames)  # of each event that is over, [frames, events]
    out = np.where((share > 0) & (share < 1), np.sin(np.pi * share) ** 2, 0.0)
    axes = out if label == 0 else out[:, ::-1]  # x follows the first event, or the second
    reach = size * rng.uniform(*SWING, 2) * rng.choice([-1, 1], 2)
    start = rng.uniform(radius + np.maximum(0, -reach), size - radius - np.maximum(0, reach))
    return start + reach * axes
