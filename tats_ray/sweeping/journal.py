"""What a sweep writes down while it goes on, so that it can be resumed: its plan, its clones, and how trials ended.

``<results>/<sweep>/<number>/``
    ``plan.json``             name, options, domains and base run, the checkpoints that trials start from, all trials
    ``trials/<name>.json``    how one trial ended
    ``segments/<name>.json``  from whom a trial of population based training took over, and with which knobs
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tats_ray.mirror import exists, listed, read_text, write_text
from tats_ray.sweeping.trials import Trial
from tats_ray.tracking.store import without_credentials

SearchName = Literal["grid", "random", "tpe"]
SchedulerName = Literal["none", "asha", "pbt"]
RankAt = Literal["steps", "flops"]


@dataclass(frozen=True)
class Options:
    """How a space is searched; the flags of a sweep's command."""

    search: SearchName = "grid"
    """Every combination, independent draws, or Optuna's tree-structured Parzen estimator."""
    scheduler: SchedulerName = "none"
    """Whether trials are stopped (asha) or replaced by perturbed clones of better ones (pbt) before their end."""
    trials: int | None = None
    """Configurations at most; None for all of a grid."""
    seeds: tuple[int, ...] = (0,)
    """Each configuration is trained once with each."""
    rank_at: RankAt = "steps"
    """What is equal where configurations are compared."""


@dataclass(frozen=True)
class Planned:
    """A trial that is to be: a configuration with one seed."""

    name: str
    knobs: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Segment:
    """What a trial became when it took over another's training."""

    donor: str
    """Name of the trial whose weights, optimisers and step it took."""
    step: int
    knobs: Mapping[str, Any]
    """From here on."""
    start: str
    """Copy of the donor's checkpoint."""


@dataclass
class Plan:
    """What a sweep set out to do; trials are added to it when a search suggests them."""

    name: str
    """Names of its trials' runs begin with it."""
    options: Options
    domains: Mapping[str, str]
    """In words: whether a script that resumes it still means the same."""
    judged_by: str
    """Mode and metric, likewise."""
    base: Mapping[str, Any]
    """The run that the trials change, without passwords of its addresses."""
    starts: Mapping[str, str | None]
    """Checkpoint that trials of a seed start from; None for initial weights."""
    trials: list[Planned] = field(default_factory=list)


class Journal:
    """The files of one sweep; each is complete or absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_plan(self, plan: Plan) -> None:
        """Replace the plan."""
        _write(self.folder / "plan.json", asdict(plan))

    def read_plan(self) -> Plan:
        """Return the plan."""
        saved = json.loads(read_text(self.folder / "plan.json"))
        options = Options(**{**saved["options"], "seeds": tuple(saved["options"]["seeds"])})
        return Plan(**{**saved, "options": options, "trials": [Planned(**trial) for trial in saved["trials"]]})

    def end(self, trial: Trial) -> None:
        """Write down how a trial ended; an earlier ending of it is replaced."""
        _write(self.folder / "trials" / f"{trial.name}.json", asdict(trial))

    def ended(self) -> dict[str, Trial]:
        """Return all trials that ended, by name."""
        folder = self.folder / "trials"
        found = [json.loads(read_text(folder / name)) for name in listed(folder) if name.suffix == ".json"]
        return {saved["name"]: Trial(**saved) for saved in found}

    def settled(self) -> dict[str, Trial]:
        """Return the trials that a resumed sweep does not train again: all that ended, but those that failed."""
        return {name: trial for name, trial in self.ended().items() if trial.status not in ("failed", "interrupted")}

    def segments(self, name: str) -> Sequence[Segment]:
        """Return what a trial took over, oldest first."""
        path = self.folder / "segments" / f"{name}.json"
        return [Segment(**saved) for saved in json.loads(read_text(path))] if exists(path) else []

    def add_segment(self, name: str, segment: Segment) -> None:
        """Write down that a trial took over another's training."""
        segments = [*self.segments(name), segment]
        _write(self.folder / "segments" / f"{name}.json", [asdict(one) for one in segments])


def _write(path: Path, content: object) -> None:
    write_text(path, without_credentials(json.dumps(content, indent=1)))
