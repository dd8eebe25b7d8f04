"""What one trial of a sweep left, in plain data: the seam between whoever runs trials and whoever reports them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

TrialStatus = Literal["finished", "stopped", "failed", "interrupted", "pruned", "refused"]
"""``stopped``: by a scheduler, before its end; ``pruned``: cannot fit, by the cost model; ``refused``: its settings
cannot have the effect that the sweep looks for. The last two were never started."""


@dataclass(frozen=True)
class Point:
    """The sweep's metric at one validation."""

    step: int
    flops: float
    """Counted for the trial's training up to this step, its sampler's included."""
    value: float


@dataclass(frozen=True)
class Trial:
    """One trial: a configuration with one seed.

    Example:
        >>> trial = Trial("00001", {"masking.mask_ratio": 0.9}, seed=0, status="finished", metrics={"loss": 0.5})
        >>> trial.knobs["masking.mask_ratio"]
        0.9
    """

    name: str
    knobs: Mapping[str, Any]
    """Dotted path to value; trials with equal knobs and other seeds are one configuration."""
    seed: int
    status: TrialStatus
    reason: str | None = None
    """Why it failed, was stopped, pruned or refused."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Its summary, and the mean of ``ppo/clipfrac`` over all its updates where there were any."""
    curve: Sequence[Point] = ()
    """Of the sweep's metric; steps strictly increase, also after a failure or a clone."""
    folder: str | None = None
    """Of its run."""
    run_id: str | None = None
    """Its MLflow run."""
