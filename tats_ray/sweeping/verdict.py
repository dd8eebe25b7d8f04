"""What may be said of a ranking: a best of few seeds is not shown to be better than the next."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tats_ray.evaluation.paired import Interval, Verdict, paired_interval, verdict
from tats_ray.sweeping.ranking import Configuration, Ranking

FEW_SEEDS = 5


def two_best(ranking: Ranking) -> tuple[Interval, Verdict] | None:
    """Return by how much the first is better than the second over the seeds that both have; above 0 is better.

    None where there are no two that went to their end, or no common seed.
    """
    whole = [one for one in ranking.configurations if one.stopped_at is None]
    if len(whole) < 2:
        return None
    first, second = whole[0].values, whole[1].values
    sign = -1 if ranking.mode == "min" else 1
    differences = [sign * (first[seed] - second[seed]) for seed in first if seed in second]
    if not differences:
        return None
    interval = paired_interval(differences)
    return interval, verdict(interval)


def sentences(ranking: Ranking) -> list[str]:
    """Return what the ranking allows to say, the best first, then what does not count and why."""
    said = [_of_best(ranking)]
    if ranking.best is not None and len(ranking.configurations) > 1:
        said.append(_of_two_best(ranking))
        said.append(_of_the_choice(ranking))
    said.extend(_of_left_out(ranking))
    return said


def described(knobs: Mapping[str, Any]) -> str:
    """Return knobs on one line, by the last parts of their paths."""
    return ", ".join(f"{path.removesuffix('.kind').split('.')[-1]}={shown(value)}" for path, value in knobs.items())


def shown(value: Any) -> str:
    """Return a value as a reader wants it: floats in four digits, nothing and truth as YAML writes them."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def with_spread(one: Configuration) -> str:
    """Return mean and standard deviation."""
    return f"{one.mean:.4g}" + ("" if one.spread is None else f" ± {one.spread:.2g}")


def _of_best(ranking: Ranking) -> str:
    best = ranking.best
    if best is None:
        return "No trial counts, so nothing is ranked."
    seeds = len(best.scores)
    over = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "of one seed"
    stop = "" if best.stopped_at is None else f", where a seed of it was stopped at step {best.stopped_at:,}"
    missing = f"; {len(best.left_out)} of its seeds do not count" if best.left_out else ""
    better = "least" if ranking.mode == "min" else "largest"
    ties = sum(one.rank == 1 for one in ranking.configurations) - 1
    also = f" {ties} other{'s have' if ties > 1 else ' has'} the same mean." if ties else ""
    return (
        f"{better.capitalize()} {ranking.metric} of {len(ranking.configurations)} configurations: {with_spread(best)} "
        f"({over}{missing}{stop}) with {described(best.knobs)}.{also}"
    )


def _of_two_best(ranking: Ranking) -> str:
    found = two_best(ranking)
    if found is None:
        return "The two best have no common seed that went to its end, so no difference between them can be shown."
    interval, judged = found
    if interval.n < 2:
        return (
            f"The two best differ by {interval.mean:.3g} on the one seed that they share. One seed says nothing about "
            f"the spread over seeds, so the order may be chance: repeat the best few with further seeds."
        )
    few = " Intervals of so few seeds are wide." if interval.n < FEW_SEEDS and judged == "cannot tell" else ""
    told = "tells them apart" if judged == "better" else "does not tell them apart, so the order may be chance"
    return (
        f"The first is better than the second by {interval.mean:.3g} over {interval.n} common seeds, 95 % interval "
        f"{interval.low:.3g} to {interval.high:.3g} (paired, Student's t): that {told}.{few}"
    )


def _of_the_choice(ranking: Ranking) -> str:
    number = len(ranking.configurations)
    return (
        f"The best was chosen from {number} by the very values that are shown here, which favours lucky ones: expect "
        f"less of it on new seeds, and take no interval on this page for a test of that choice."
    )


def _of_left_out(ranking: Ranking) -> Sequence[str]:
    counts = Counter(one.how for one in ranking.left_out)
    said = []
    if counts:
        told = ", ".join(f"{number} {how}" for how, number in counts.items())
        said.append(f"Not ranked: {told}. Reasons stand below.")
    thinned = [one for one in ranking.configurations if one.left_out and one.scores]
    if thinned:
        said.append(
            f"{len(thinned)} ranked configuration{'s lack' if len(thinned) > 1 else ' lacks'} seeds that do not count; "
            f"where they failed because of their knobs, the mean of the others is too good."
        )
    return said
