"""What is run: the same start for all, the same clips, and cuts that cost what the reference costs."""

from dataclasses import replace

import pytest

from tats_ray.comparison.plan import Arm, Comparison, Plan, described, equal_flops_steps, plan, step_flops
from tats_ray.comparison.recipes import RECIPES, comparison, sampler
from tats_ray.config.error import ConfigError
from tats_ray.masking.tats import TATSConfig
from tats_ray.methods.build import training_flops
from tats_ray.training.optim import constant_rate

KIND = "masking.visible.kind"


def test_every_arm_starts_from_its_seeds_warm_up(planned: Plan) -> None:
    stages = [one.stage for one in planned.runs.values()]
    # 3 seeds; 2 ratios x 3 arms each; TATS is dearer and is cut.
    assert (stages.count("warm-up"), stages.count("full"), stages.count("cut")) == (3, 18, 6)
    for name, one in planned.runs.items():
        assert name == one.run.name
        if one.stage == "warm-up":
            assert one.run.masking.visible.kind == "random"
            assert one.run.training.steps == 40
            assert one.after is None
        elif one.stage == "full":
            assert one.after == f"duel-warm-s{one.run.seed}"
            assert one.run.init_takes == "weights"
        else:
            assert one.after == name.removesuffix("-cut")
            assert one.run.init_takes == "training"


def test_runs_come_after_those_they_need(planned: Plan) -> None:
    seen: set[str] = set()
    for name, one in planned.runs.items():
        assert one.after is None or one.after in seen
        seen.add(name)


def test_arms_differ_in_their_sampler_alone(planned: Plan) -> None:
    same = []
    for arm in ("random", "oracle"):
        run = planned.runs[f"duel-{arm}-r0.9-s1"].run
        same.append(run.model_copy(update={"name": "", "masking": None}))
    assert same[0] == same[1]


def test_cuts_cost_no_more_than_the_reference_and_nearly_as_much(planned: Plan) -> None:
    """Clips of the full run up to the fork, and the cut's own, against all of the reference's."""
    reference, cut = (planned.runs[f"duel-{name}-r0.9-s0"] for name in ("random", "tats"))
    short = planned.runs["duel-tats-r0.9-s0-cut"]
    assert short.run.training.steps is not None
    cost = short.run.training.steps * step_flops(cut.run)
    assert 100 * step_flops(reference.run) - step_flops(cut.run) < cost <= 100 * step_flops(reference.run)
    (fork,) = cut.run.training.keep_after
    assert short.steps == short.run.training.steps - fork


def test_a_cut_has_the_rates_of_the_full_run_until_its_cool_down(planned: Plan) -> None:
    full, cut = (planned.runs[f"duel-tats-r0.9-s0{end}"].run for end in ("", "-cut"))
    (fork,) = full.training.keep_after
    assert cut.training.steps is not None
    begins = cut.training.steps - 10
    assert fork <= begins <= fork + 3  # a checkpoint waits for at most three steps of a rollout
    rates = [
        [constant_rate(step, run.optim, total_steps=run.training.steps or 0) for step in range(fork, begins + 10)]
        for run in (full, cut)
    ]
    same = begins - fork + 1
    assert rates[0][:same] == rates[1][:same] == [full.optim.base_learning_rate] * same
    assert rates[1][-1] < rates[1][-2] < full.optim.base_learning_rate


def test_the_reference_is_judged_once_for_both_budgets(planned: Plan) -> None:
    ends = {
        entry.budget: entry.run
        for entry in planned.entries
        if (entry.arm, entry.ratio, entry.seed) == ("random", 0.8, 0)
    }
    assert ends["clips"] == ends["flops"] == "duel-random-r0.8-s0"


def test_flops_of_the_plan_are_those_of_its_runs(planned: Plan, small: Comparison) -> None:
    assert equal_flops_steps(small, small.arms[0], ratio=0.9) == 100
    warm = planned.runs["duel-warm-s0"]
    assert warm.flops == 40 * step_flops(warm.run)
    assert planned.flops == pytest.approx(sum(one.steps * step_flops(one.run) for one in planned.runs.values()))


def test_a_critic_that_learns_in_the_warm_up_counts_for_those_that_take_it_over(small: Comparison) -> None:
    made = plan(replace(small, critic_steps=10))
    warm, tats = made.runs["duel-warm-s0"], made.runs["duel-tats-r0.9-s0"]
    sampler = 8 * training_flops(tats.run.model, tats.run.masking, grid=tats.run.grid)["sampler"]  # of 8 clips
    assert warm.critic_flops == pytest.approx(10 * sampler)
    assert warm.flops == planned_warm_flops(small)
    assert made.warm_flops("duel-tats-r0.9-s0") == made.warm_flops("duel-tats-r0.9-s0-cut")
    assert made.warm_flops("duel-tats-r0.9-s0") == warm.flops + warm.critic_flops
    assert made.warm_flops("duel-random-r0.9-s0") == warm.flops
    budget = 100 * step_flops(made.runs["duel-random-r0.9-s0"].run)
    short = made.runs["duel-tats-r0.9-s0-cut"].run.training.steps
    assert short is not None
    cost = short * step_flops(tats.run) + warm.critic_flops
    assert budget - step_flops(tats.run) < cost <= budget


def planned_warm_flops(comparison: Comparison) -> float:
    return plan(comparison).runs["duel-warm-s0"].flops


def test_the_critic_of_a_warm_up_starts_late_and_its_policy_never_draws(small: Comparison) -> None:
    visible = plan(replace(small, critic_steps=10)).runs["duel-warm-s2"].run.masking.visible
    assert isinstance(visible, TATSConfig)
    assert visible.switch.critic_by == 0.75
    assert visible.switch.policy_by == 1
    assert visible.switch.error_spread > 1e3


def test_critics_of_another_shape_have_a_warm_up_of_their_own(small: Comparison) -> None:
    order = Arm("order", {KIND: "tats", "masking.visible.objective": "order-low-error"})
    twin = Arm("twin", {KIND: "tats", "masking.visible.ppo.temperature": 0.3})
    made = plan(replace(small, arms=(*small.arms, twin, order), critic_steps=10, ratios=(0.9,)))
    after = {name: one.after for name, one in made.runs.items() if one.stage == "full" and one.run.seed == 1}
    assert after.pop("duel-order-r0.9-s1") == "duel-warm-order-s1"
    assert set(after.values()) == {"duel-warm-s1"}
    assert plan(replace(small, arms=(*small.arms, twin, order))).runs.keys().isdisjoint({"duel-warm-order-s1"})


def test_a_plan_is_told_by_its_description(small: Comparison, planned: Plan) -> None:
    assert described(plan(small)) == described(planned)
    assert described(plan(replace(small, steps=101))) != described(planned)
    assert described(plan(replace(small, probes={"segments": 1}))) != described(planned)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"references": ("tube",)}, r"references \['tube'\] must be one or more of the samplers"),
        ({"seeds": (0, 0)}, r"seeds must be given, each once, got \[0, 0\]"),
        ({"ratios": ()}, r"ratios must be given"),
        ({"arms": [Arm("random", {})]}, "needs two samplers or more"),
        ({"cooldown_steps": 100}, "cool-down must have at least 1 step and fewer than the run, got 100 of 100"),
        ({"warm_steps": 0}, "warm-up must have at least 1 step, got 0"),
        ({"critic_steps": 40}, "critic's steps must be 0 or more and fewer than the warm-up's, got 40 of 40"),
        ({"cooldown_steps": 90}, "at equal FLOPs the sampler tats at ratio 0.8 gets .. of 100 steps, no more than"),
    ],
)
def test_what_is_no_comparison_is_refused(small: Comparison, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(replace(small, **change))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_plan(name: str) -> None:
    made = plan(comparison(name))
    assert {entry.budget for entry in made.entries} == {"clips", "flops"}
    assert made.comparison.references[0] == ("random-128" if name == "long" else "random")


def test_arms_of_long_and_short_clips_see_as_many_tokens_at_one_rate() -> None:
    made = plan(comparison("long"))
    runs = [made.runs[entry.run].run for entry in made.entries if entry.budget == "clips"]
    assert {run.data.num_frames for run in runs} == {32, 128}
    assert {(run.training.steps, run.training.global_batch * run.grid.num_tokens) for run in runs} == {(400, 8 * 1024)}
    rates = [run.optim.base_learning_rate * run.training.global_batch for run in runs]
    assert rates == pytest.approx([1.5e-3 * 256] * len(runs))
    assert made.comparison.probes["num_frames"] == 128


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no sampler 'tat'; did you mean tats"):
        sampler("tat")
    with pytest.raises(ConfigError, match="no comparison 'tinny'; did you mean tiny"):
        comparison("tinny")
