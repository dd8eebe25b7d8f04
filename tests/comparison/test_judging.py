"""Verdicts from made-up scores: what pairs, what is left out, and what the sentences say."""

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from tats_ray.comparison.judging import (
    POLICY_ON,
    Contrast,
    Missing,
    Scored,
    cells,
    contrasts,
    ranked,
    sentences,
    why_unranked,
)
from tats_ray.comparison.plan import Plan

Make = Callable[[dict], dict[str, Scored]]


def contrast(found: list[Contrast], **wanted: object) -> Contrast:
    (one,) = [one for one in found if all(getattr(one, name) == value for name, value in wanted.items())]
    return one


def test_differences_are_paired_by_seed(planned: Plan, make_scores: Make) -> None:
    """Seeds differ by 0.1 each, far more than arms: unpaired, nothing could be told."""
    scores = make_scores({("tats", "ridge/top1"): 0.05})
    one = contrast(contrasts(planned, scores), arm="tats", metric="ridge/top1", ratio=0.9, budget="clips")
    pairs = [
        scores[f"duel-tats-r0.9-s{seed}"].metrics["ridge/top1"]
        - scores[f"duel-random-r0.9-s{seed}"].metrics["ridge/top1"]
        for seed in range(3)
    ]
    assert one.interval.mean == pytest.approx(fmean(pairs))
    # Student's t of 2 degrees of freedom at 95 %: 4.303.
    assert one.interval.high - one.interval.mean == pytest.approx(4.3027 * stdev(pairs) / 3**0.5, rel=1e-4)
    assert one.verdict == "better"


def test_worse_and_cannot_tell(planned: Plan, make_scores: Make) -> None:
    found = contrasts(planned, make_scores({("tats", "ridge/top1"): -0.05}))
    assert contrast(found, arm="tats", metric="ridge/top1", ratio=0.8, budget="flops").verdict == "worse"
    assert contrast(found, arm="tats", metric="knn/top1", ratio=0.8, budget="flops").verdict == "cannot tell"


def test_a_run_whose_sampler_was_never_on_is_not_ranked(planned: Plan, make_scores: Make) -> None:
    scores: dict[str, Scored | Missing] = dict(make_scores({("tats", "ridge/top1"): 0.5}))
    for seed in range(3):
        name = f"duel-tats-r0.9-s{seed}"
        # Switched on by the last measurement of the run: no step was trained with it.
        scores[name] = replace(scores[name], summary={"step": 100.0, POLICY_ON: 100.0} if seed else {"step": 100.0})
    found = contrasts(planned, scores)
    assert not [one for one in found if (one.arm, one.ratio, one.budget) == ("tats", 0.9, "clips")]
    assert ranked(planned, scores, ratio=0.9, budget="clips")["tats"] == {}
    entry = next(entry for entry in planned.entries if entry.run == "duel-tats-r0.9-s0")
    assert "never on" in (why_unranked(planned, entry, scores) or "")
    # Fixed rules have nothing to switch on.
    assert not scores["duel-random-r0.9-s0"].summary.get(POLICY_ON)
    assert len(ranked(planned, scores, ratio=0.9, budget="clips")["random"]) == 3


def test_missing_runs_take_their_pairs_with_them(planned: Plan, make_scores: Make) -> None:
    scores: dict[str, Scored | Missing] = dict(make_scores({("oracle", "ridge/top1"): 0.05}))
    scores["duel-random-r0.9-s1"] = Missing("its disk was full")
    one = contrast(contrasts(planned, scores), arm="oracle", metric="ridge/top1", ratio=0.9, budget="clips")
    assert one.interval.n == 2
    del scores["duel-oracle-r0.9-s0"], scores["duel-oracle-r0.9-s2"]
    assert not [
        one
        for one in contrasts(planned, scores)
        if (one.arm, one.ratio, one.budget, one.metric) == ("oracle", 0.9, "clips", "ridge/top1")
    ]


def test_one_seed_cannot_tell(planned: Plan, make_scores: Make) -> None:
    scores = {name: one for name, one in make_scores({("tats", "ridge/top1"): 0.9}).items() if name.endswith("s0")}
    one = contrast(contrasts(planned, scores), arm="tats", metric="ridge/top1", ratio=0.9, budget="clips")
    assert (one.interval.n, one.verdict) == (1, "cannot tell")


def test_cells_are_means_and_spreads_over_seeds(planned: Plan, make_scores: Make) -> None:
    scores = make_scores({})
    cell = cells(planned, scores, ratio=0.8, budget="clips", metric="knn/top1")["random"]
    values = [scores[f"duel-random-r0.8-s{seed}"].metrics["knn/top1"] for seed in range(3)]
    assert (cell.mean, cell.spread) == (pytest.approx(fmean(values)), pytest.approx(stdev(values)))


def test_the_page_says_first_whether_any_oracle_wins(planned: Plan, make_scores: Make) -> None:
    comparison = planned.comparison
    said = sentences(comparison, contrasts(planned, make_scores({("tats", "ridge/top1"): 0.05})))
    assert said[0].startswith("No oracle (oracle), which is told what moves, is shown to be better than random by any")
    said = sentences(comparison, contrasts(planned, make_scores({("oracle", "knn/top1"): 0.05})))
    assert (
        "an oracle is better than random in 2 of the comparisons: oracle at ratio 0.8 and equal clips by knn" in said[0]
    )


def test_sentences_follow_from_the_intervals(planned: Plan, make_scores: Make) -> None:
    found = contrasts(planned, make_scores({("tats", "ridge/top1"): 0.05, ("oracle", "knn/top1"): -0.05}))
    said = sentences(planned.comparison, found)
    # The oracle is not cut: at equal FLOPs its runs are those of equal clips, and count once.
    for kind, arm, metric, budgets in (
        ("better", "tats", "ridge", ("clips", "FLOPs")),
        ("worse", "oracle", "knn", ("clips",)),
    ):
        where = "; ".join(
            f"{kind} at ratio {ratio} and equal {budget} by {metric}" for budget in budgets for ratio in (0.8, 0.9)
        )
        half = 2 * len(budgets)
        assert f"{arm} against random: {where}; cannot tell in the other {half} of {2 * half} comparisons." in said
    said = sentences(planned.comparison, contrasts(planned, make_scores({})))
    assert "tats against random: cannot tell in any of the 8 comparisons." in said


def test_two_references_are_compared_once(planned: Plan, make_scores: Make) -> None:
    both = replace(planned, comparison=replace(planned.comparison, references=("random", "oracle")))
    pairs = {(one.arm, one.reference) for one in contrasts(both, make_scores({}))}
    assert pairs == {("oracle", "random"), ("tats", "random"), ("tats", "oracle")}
