"""Which sample stands at which position of the run: a function of seed, epoch and position alone.

Positions count the samples of the whole run from 0. Epoch after epoch, a seeded permutation of the manifest is laid end
to end; step ``s`` takes the positions ``[s * global_batch, (s + 1) * global_batch)``, and rank ``r`` of ``w`` the r-th
of ``w`` equal parts of them. Nothing depends on decode timing, and only the parts depend on the number of workers.
"""

from functools import lru_cache

import numpy as np

EPOCH, HELD_OUT, CLIP = 0, 1, 2
"""Second word of a random stream's seed: what is drawn, so that no two uses share numbers."""


@lru_cache(maxsize=4)
def epoch_permutation(num_samples: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the samples in one epoch; do not write to it."""
    return np.random.default_rng([seed, EPOCH, epoch]).permutation(num_samples)


def samples_at(positions: np.ndarray, *, num_samples: int, seed: int) -> np.ndarray:
    """Return the manifest row that stands at each position."""
    epochs, within = np.divmod(positions, num_samples)
    turns = np.flatnonzero(np.diff(epochs)) + 1  # where one epoch ends and the next begins
    parts = zip(np.split(epochs, turns), np.split(within, turns), strict=True)
    samples = [
        epoch_permutation(num_samples, seed=seed, epoch=int(epoch[0]))[place] for epoch, place in parts if len(epoch)
    ]
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
