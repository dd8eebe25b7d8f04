"""From what each run scored to what may be said: paired differences over seeds, and sentences that follow from them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from tats_ray.comparison.plan import Arm, Budget, Comparison, Entry, Plan
from tats_ray.evaluation.paired import Interval, Verdict, paired_interval, verdict

POLICY_ON = "sampler/policy_on_step"
MASK_ERROR = "random_mask_error"
"""Prefix of the diagnostic errors on common random masks, by ratio in per cent."""


@dataclass(frozen=True)
class Scored:
    """The end of one run: what probes and diagnostics say of it."""

    metrics: Mapping[str, float]
    """By documented name: ``ridge/top1``, ``ridge_25/top1``, ..., and ``random_mask_error_90``, ..."""
    summary: Mapping[str, float]
    """The run's own: steps, switch-on of the sampler, lifts."""
    flops: float
    """Counted for all of its training, the warm-up included."""
    folder: str
    """Of the run."""
    link: str
    """Where a reader finds the run."""


@dataclass(frozen=True)
class Missing:
    """Why there is no score."""

    reason: str


Scores = Mapping[str, Scored | Missing]
"""By name of the run."""


@dataclass(frozen=True)
class Contrast:
    """One arm against one reference, by one metric."""

    arm: str
    reference: str
    ratio: float
    budget: Budget
    metric: str
    interval: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Cell:
    """What one arm scored by one metric."""

    values: Mapping[int, float]
    """By seed."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.values.values())

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None of one."""
        return stdev(self.values.values()) if len(self.values) > 1 else None


def metrics_of(scores: Scores) -> list[str]:
    """Return the accuracies by which arms are judged, in order."""
    found: dict[str, None] = {}
    for scored in scores.values():
        if isinstance(scored, Scored):
            found.update(dict.fromkeys(name for name in scored.metrics if name.endswith("/top1")))
    return list(found)


def ranked(plan: Plan, scores: Scores, *, ratio: float, budget: Budget) -> dict[str, dict[int, Scored]]:
    """Return the scored runs by arm and seed, without those whose sampler was never on."""
    found: dict[str, dict[int, Scored]] = {arm.name: {} for arm in plan.comparison.arms}
    for entry in _entries(plan, ratio=ratio, budget=budget):
        scored = scores.get(entry.run)
        if isinstance(scored, Scored) and why_unranked(plan, entry, scores) is None:
            found[entry.arm][entry.seed] = scored
    return found


def why_unranked(plan: Plan, entry: Entry, scores: Scores) -> str | None:
    """Say why a run does not count; None where it does."""
    scored = scores.get(entry.run)
    if scored is None:
        return "it was not run"
    if isinstance(scored, Missing):
        return scored.reason
    learns_late = plan.runs[entry.run].run.masking.visible.kind == "tats"
    if learns_late and scored.summary.get(POLICY_ON, math.inf) >= scored.summary["step"]:
        return "its sampler was never on: it is a run with random masks"
    return None


def cells(plan: Plan, scores: Scores, *, ratio: float, budget: Budget, metric: str) -> dict[str, Cell]:
    """Return what each arm scored, for those with a score."""
    found = {
        arm: {seed: scored.metrics[metric] for seed, scored in by_seed.items() if metric in scored.metrics}
        for arm, by_seed in ranked(plan, scores, ratio=ratio, budget=budget).items()
    }
    return {arm: Cell(values) for arm, values in found.items() if values}


def contrasts(plan: Plan, scores: Scores) -> list[Contrast]:
    """Return every arm against every reference, at each ratio and budget, by each metric.

    A difference is one seed's: the two runs share initial weights, warm-up, clips and their order, and the test videos.
    Where neither arm is cut, equal clips and equal FLOPs are the same runs, and count once, as equal clips.
    """
    return list(_contrasts(plan.comparison, plan, scores))


def _contrasts(comparison: Comparison, plan: Plan, scores: Scores) -> Iterator[Contrast]:
    for budget in ("clips", "flops"):
        for ratio in comparison.ratios:
            for metric in metrics_of(scores):
                scored = cells(plan, scores, ratio=ratio, budget=budget, metric=metric)
                for number, reference in enumerate(comparison.references):
                    for arm in comparison.arms:
                        if arm.name in comparison.references[: number + 1]:  # itself, or told the other way round
                            continue
                        cut = _cut(plan, arm.name, ratio) or _cut(plan, reference, ratio)
                        pairs = _pairs(scored, arm.name, reference)
                        if pairs and (cut or budget == "clips"):
                            interval = paired_interval(pairs)
                            yield Contrast(arm.name, reference, ratio, budget, metric, interval, verdict(interval))


def _cut(plan: Plan, arm: str, ratio: float) -> bool:
    """Whether an arm has runs of its own at equal FLOPs."""
    entries = (entry for entry in _entries(plan, ratio=ratio, budget="flops") if entry.arm == arm)
    return any(plan.runs[entry.run].stage == "cut" for entry in entries)


def _pairs(scored: Mapping[str, Cell], arm: str, reference: str) -> list[float]:
    if arm not in scored or reference not in scored:
        return []
    ours, theirs = scored[arm].values, scored[reference].values
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def sentences(comparison: Comparison, found: Sequence[Contrast]) -> list[str]:
    """Return what the intervals say, the oracles first: if none of them wins, no sampler can be expected to."""
    said = []
    oracles = [arm for arm in comparison.arms if arm.oracle]
    first = comparison.references[0]
    if oracles:
        said.append(_of_oracles(oracles, [one for one in found if one.reference == first], first))
    for arm in comparison.arms:
        for reference in comparison.references:
            about = [one for one in found if (one.arm, one.reference) == (arm.name, reference)]
            if about:
                said.append(_of_arm(about))
    return said


def _of_oracles(oracles: Sequence[Arm], found: Sequence[Contrast], reference: str) -> str:
    names = [arm.name for arm in oracles]
    wins = [one for one in found if one.arm in names and one.verdict == "better"]
    told = ", ".join(names)
    if not any(one.arm in names for one in found):
        return f"Oracles ({told}), which are told what moves: no result."
    if not wins:
        return (
            f"No oracle ({told}), which is told what moves, is shown to be better than {reference} by any metric: "
            f"that is not to be expected then of a sampler that has to learn it."
        )
    where = ", ".join(
        f"{one.arm} at ratio {one.ratio:g} and equal {_budget(one)} by {_short(one.metric)}" for one in wins
    )
    return f"Told what moves, an oracle is better than {reference} in {len(wins)} of the comparisons: {where}."


def _of_arm(about: Sequence[Contrast]) -> str:
    """Say where an arm is better or worse than a reference, and in how many of the comparisons that cannot be told."""
    parts = [
        f"{one.verdict} at ratio {one.ratio:g} and equal {_budget(one)} by {_short(one.metric)}"
        for one in sorted(about, key=lambda one: one.verdict)
        if one.verdict != "cannot tell"
    ]
    untold = len(about) - len(parts)
    if untold:
        where = "any of the" if untold == len(about) else f"the other {untold} of"
        parts.append(f"cannot tell in {where} {len(about)} comparisons")
    return f"{about[0].arm} against {about[0].reference}: {'; '.join(parts)}."


def _short(metric: str) -> str:
    return metric.removesuffix("/top1")


def _budget(contrast: Contrast) -> str:
    return "clips" if contrast.budget == "clips" else "FLOPs"


def _entries(plan: Plan, *, ratio: float, budget: Budget) -> Iterator[Entry]:
    return (entry for entry in plan.entries if entry.ratio == ratio and entry.budget == budget)
