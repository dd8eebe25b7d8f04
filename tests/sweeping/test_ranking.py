"""The order of configurations, by hand numbers."""

import math

import pytest

from tats_ray.sweeping.ranking import Ranking, rank
from tats_ray.sweeping.trials import Point, Trial, TrialStatus

LOSS = "loss"


def trial(
    name: str,
    knob: object,
    values: dict[int, float],
    *,
    seed: int = 0,
    flops: float = 1.0,
    status: TrialStatus = "finished",
    reason: str | None = None,
) -> Trial:
    """A trial with its metric by step, each step at the same cost."""
    curve = [Point(step, step * flops, value) for step, value in values.items()]
    return Trial(name, {"optim.weight_decay": knob}, seed, status, reason, curve=curve)


def order(ranking: Ranking) -> list[object]:
    return [one.knobs["optim.weight_decay"] for one in ranking.configurations]


def test_equal_steps_are_the_last_that_all_have() -> None:
    trials = [
        trial("a", 1, {10: 5.0, 20: 3.0, 30: 1.0}),
        trial("b", 2, {10: 4.0, 20: 2.0}),
        trial("c", 3, {10: 9.0, 20: 2.5, 30: 0.5}),
    ]
    ranking = rank(trials, metric=LOSS, mode="min")
    assert order(ranking) == [2, 3, 1]
    assert [one.mean for one in ranking.configurations] == [2.0, 2.5, 3.0]
    assert "step 20" in ranking.rule
    assert order(rank(trials, metric=LOSS, mode="max")) == [1, 3, 2]


def test_equal_flops_are_the_largest_that_all_have() -> None:
    """A dear trial ends at 60, where a cheap one, a third as dear, has just validated at step 60."""
    trials = [
        trial("dear", 1, {10: 5.0, 20: 2.0}, flops=3.0),
        trial("cheap", 2, {20: 4.0, 40: 3.0, 60: 2.5, 80: 1.0}, flops=1.0),
        trial("middle", 3, {20: 2.6, 40: 0.1}, flops=2.0),  # 40 and 80: the value at 40 counts
    ]
    ranking = rank(trials, metric=LOSS, mode="min", at="flops")
    assert order(ranking) == [1, 2, 3]
    assert [one.mean for one in ranking.configurations] == [2.0, 2.5, 2.6]
    assert order(rank(trials, metric=LOSS, mode="min")) == [1, 3, 2]  # at step 20: 2.0, 4.0 and 2.6
    assert "(steps 20 to 60)" in ranking.rule


def test_a_trial_that_costs_too_much_before_its_first_validation_has_no_value() -> None:
    ranking = rank(
        [trial("a", 1, {10: 5.0}, flops=1e12), trial("b", 2, {10: 1.0, 20: 1.0}, flops=9e12)],
        metric=LOSS,
        mode="min",
        at="flops",
    )
    assert order(ranking) == [1]
    assert "came after 10 TFLOPs" in ranking.left_out[0].reason


def test_seeds_of_equal_knobs_are_one_configuration() -> None:
    trials = [
        trial(f"{knob}-{seed}", knob, {10: value}, seed=seed)
        for knob, values in {1: (1.0, 2.0, 6.0), 2: (2.5, 3.5, 2.7)}.items()
        for seed, value in enumerate(values)
    ]
    best, second = rank(trials, metric=LOSS, mode="min").configurations
    assert best.knobs["optim.weight_decay"] == 2
    assert best.values == {0: 2.5, 1: 3.5, 2: 2.7}
    assert best.mean == pytest.approx(2.9)
    assert best.spread == pytest.approx(math.sqrt((0.4**2 + 0.6**2 + 0.2**2) / 2))
    assert (best.rank, second.rank, second.mean) == (1, 2, 3.0)
    assert rank([trial("a", 1, {10: 1.0})], metric=LOSS, mode="min").configurations[0].spread is None


def test_equal_means_share_a_rank() -> None:
    trials = [trial(str(knob), knob, {10: value}) for knob, value in enumerate((2.0, 1.0, 1.0, 3.0))]
    ranking = rank(trials, metric=LOSS, mode="min")
    assert [(one.rank, one.knobs["optim.weight_decay"]) for one in ranking.configurations] == [
        (1, 1),
        (1, 2),
        (3, 0),
        (4, 3),
    ]


def test_a_failed_seed_is_left_out_of_the_mean_and_named() -> None:
    trials = [
        trial("a0", 1, {10: 1.0}, seed=0),
        trial("a1", 1, {}, seed=1, status="failed", reason="its disk was full"),
        trial("b0", 2, {10: 2.0}, seed=0),
    ]
    ranking = rank(trials, metric=LOSS, mode="min")
    best = ranking.configurations[0]
    assert (best.mean, list(best.scores)) == (1.0, [0])
    assert [(one.trial.name, one.how, one.reason) for one in best.left_out] == [("a1", "failed", "its disk was full")]
    assert [one.trial.name for one in ranking.left_out] == ["a1"]


@pytest.mark.parametrize("status", ["failed", "interrupted", "pruned", "refused"])
def test_what_did_not_end_is_listed_and_shortens_nobody(status: TrialStatus) -> None:
    """Its curve, short as it is, does not decide where the others are compared."""
    trials = [
        trial("a", 1, {10: 1.0, 20: 4.0}),
        trial("b", 2, {10: 2.0, 20: 3.0}),
        trial("c", 3, {10: 0.1}, status=status, reason="why not"),
    ]
    ranking = rank(trials, metric=LOSS, mode="min")
    assert order(ranking) == [2, 1]
    assert [(one.trial.name, one.how, one.reason) for one in ranking.left_out] == [("c", status, "why not")]


def test_what_diverged_has_no_value_even_where_it_once_had() -> None:
    trials = [
        trial("a", 1, {10: 0.1, 20: 0.1, 30: math.nan}),  # later than others go
        trial("b", 2, {10: 3.0, 20: 2.0}),
        trial("c", 3, {}),
        trial("d", 4, {10: 0.2, 20: math.inf}),
    ]
    ranking = rank(trials, metric=LOSS, mode="min")
    assert order(ranking) == [2]
    assert {one.trial.name: one.reason for one in ranking.left_out} == {
        "a": "its loss is nan at step 30",
        "c": "it has no loss",
        "d": "its loss is inf at step 20",
    }


def test_stopped_configurations_stand_below_the_later_the_higher() -> None:
    trials = [
        trial("early", 1, {10: 0.5}, status="stopped"),
        trial("late, worse", 2, {10: 9.0, 20: 4.0}, status="stopped"),
        trial("late, better", 3, {10: 8.0, 20: 3.0}, status="stopped"),
        trial("whole", 4, {10: 9.9, 20: 9.8, 30: 9.7}),
    ]
    ranking = rank(trials, metric=LOSS, mode="min")
    assert order(ranking) == [4, 3, 2, 1]
    assert [one.stopped_at for one in ranking.configurations] == [None, 20, 20, 10]
    assert ranking.configurations[0].mean == 9.7  # a stopped trial does not decide where the others are compared
    assert "stopped" in ranking.rule


def test_a_configuration_with_a_stopped_seed_is_not_judged_by_its_lucky_ones() -> None:
    trials = [
        trial("a0", 1, {10: 1.0, 20: 0.5}, seed=0),
        trial("a1", 1, {10: 8.0}, seed=1, status="stopped"),
        trial("b0", 2, {10: 3.0, 20: 2.0}, seed=0),
        trial("b1", 2, {10: 3.0, 20: 2.0}, seed=1),
    ]
    ranking = rank(trials, metric=LOSS, mode="min")
    assert order(ranking) == [2, 1]
    lucky = ranking.configurations[1]
    assert (lucky.stopped_at, lucky.values) == (10, {0: 1.0, 1: 8.0})


def test_nothing_ranked() -> None:
    ranking = rank([trial("a", 1, {}, status="failed")], metric=LOSS, mode="min")
    assert ranking.best is None
    assert ranking.left_out[0].reason == "no reason was recorded"
