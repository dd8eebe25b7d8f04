"""Which sample stands at which position of the run: a function of seed, epoch and position alone.

Positions count the samples of the whole run from 0. Epoch after epoch, a seeded order of the videos is laid end to end;
step ``s`` takes the positions ``[s * global_batch, (s + 1) * global_batch)``, and rank ``r`` of ``w`` the r-th of ``w``
equal parts of them. Nothing depends on decode timing, and only the parts depend on the number of workers.

Several manifests may be mixed with weights. Each has permutations of its own, laid end to end, of which an epoch takes
the next ``round(weight * videos)`` places: a video of weight 2 comes twice an epoch, one of weight 0.5 every second.
The union is shuffled; with one manifest of weight 1 that is the permutation of its videos.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

EPOCH, HELD_OUT, CLIP, PART, PROBE = 0, 1, 2, 3, 4
"""Second word of a random stream's seed: what is drawn, so that no two uses share numbers."""


@dataclass(frozen=True)
class Part:
    """Neighbouring rows that come equally often: the videos of one manifest."""

    name: str
    """The manifest, for messages."""
    num_videos: int
    weight: float = 1.0
    """How often each of its videos comes in an epoch."""

    @property
    def places(self) -> int:
        """Places in each epoch; halves are rounded to even."""
        return round(self.weight * self.num_videos)


def epoch_length(parts: Sequence[Part]) -> int:
    """Return the places of an epoch.

    Raises:
        ValueError: A part has so few videos or so small a weight that none of its videos would ever come.
    """
    for part in parts:
        if not part.places:
            raise ValueError(
                f"data.manifest: {part.name} has {part.num_videos} videos to train on at weight {part.weight:g}, which "
                f"gives it no place in an epoch; give it more videos or a greater weight, or leave it out"
            )
    return sum(part.places for part in parts)


@lru_cache(maxsize=4)
def epoch_permutation(num_samples: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the samples in one epoch; do not write to it."""
    return np.random.default_rng([seed, EPOCH, epoch]).permutation(num_samples)


@lru_cache(maxsize=4)
def epoch_order(parts: tuple[Part, ...], *, seed: int, epoch: int) -> np.ndarray:
    """Return the row at each place of one epoch; do not write to it."""
    first_rows = np.cumsum([0, *(part.num_videos for part in parts)])
    drawn = [
        first + np.sort(_drawn(part, number=number, seed=seed, epoch=epoch))
        for number, (first, part) in enumerate(zip(first_rows, parts, strict=False))
    ]
    return np.concatenate(drawn)[epoch_permutation(epoch_length(parts), seed=seed, epoch=epoch)]


def samples_at(positions: np.ndarray, *, parts: tuple[Part, ...], seed: int) -> np.ndarray:
    """Return the manifest row that stands at each position."""
    epochs, within = np.divmod(positions, epoch_length(parts))
    turns = np.flatnonzero(np.diff(epochs)) + 1  # where one epoch ends and the next begins
    stretches = zip(np.split(epochs, turns), np.split(within, turns), strict=True)
    samples = [epoch_order(parts, seed=seed, epoch=int(epoch[0]))[place] for epoch, place in stretches if len(epoch)]
    return np.concatenate(samples) if samples else np.empty(0, np.int64)


def share_positions(steps: range, *, global_batch: int, rank: int, world_size: int) -> np.ndarray:
    """Return the positions of one rank in ``steps``, step by step.

    Raises:
        ValueError: The global batch does not divide among the workers.
    """
    if global_batch % world_size:
        raise ValueError(
            f"training.global_batch must be a multiple of cluster.num_workers, got {global_batch} and {world_size}"
        )
    part = global_batch // world_size
    first = np.arange(steps.start, steps.stop, dtype=np.int64)[:, None] * global_batch + rank * part
    return (first + np.arange(part)).ravel()


def split_held_out(num_samples: int, *, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and the rows held out, both sorted; at most a fifth is held out, at least one.

    Raises:
        ValueError: Fewer than two samples.
    """
    if num_samples < 2:
        raise ValueError(f"pre-training needs at least 2 videos, one of them held out, got {num_samples}")
    count = max(1, min(held_out, num_samples // 5))
    order = np.random.default_rng([seed, HELD_OUT]).permutation(num_samples)
    return np.sort(order[count:]), np.sort(order[:count])


def _drawn(part: Part, *, number: int, seed: int, epoch: int) -> np.ndarray:
    """Return the videos of a part that come in an epoch, from its own permutations laid end to end."""
    first, last = epoch * part.places, (epoch + 1) * part.places
    turns = range(first // part.num_videos, (last - 1) // part.num_videos + 1)
    orders = [np.random.default_rng([seed, PART, number, turn]).permutation(part.num_videos) for turn in turns]
    skipped = turns.start * part.num_videos
    return np.concatenate(orders)[first - skipped : last - skipped]
