"""What a sweep asked: what its report is about."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tats_ray.config.run import TrainRun
from tats_ray.sweeping.ranking import At, Mode


@dataclass(frozen=True)
class Question:
    """What a sweep asked."""

    name: str
    metric: str
    mode: Mode
    base: TrainRun
    """Each trial is this run with its knobs and its seed."""
    knobs: Sequence[str]
    """Dotted paths, in the order in which they are shown."""
    logarithmic: Collection[str] = ()
    """Those whose domains are logarithmic."""
    at: At = "steps"
    shown: Sequence[str] = ()
    """Further metrics in the table."""
    starts: Mapping[int, str | None] = field(default_factory=dict)
    """Checkpoint that the trials of a seed started from, where it differs between seeds; else it is ``base``'s."""
