"""Knobs that cannot act, and knobs that did not."""

import math
from typing import Any, get_args

import pytest
import torch

from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.recipes import recipe
from tats_ray.rl.choice import ObjectiveName, objective_of
from tats_ray.rl.objective import Estimate
from tats_ray.rl.rollout import Rollout
from tats_ray.sweeping.acting import inactive_reason, why_it_cannot_act
from tats_ray.sweeping.trials import Point, Trial

VISIBLE = "masking.visible."
PPO = f"{VISIBLE}ppo."
CLIP = f"{PPO}clip_eps"


def ended(knobs: dict[str, Any], **metrics: float) -> Trial:
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return Trial("a", knobs, 0, "finished", metrics={"step": 200.0, **named}, curve=[Point(200, 1.0, 0.5)])


def test_a_sampler_that_was_never_on() -> None:
    knobs = {f"{PPO}temperature": 0.5}
    assert "never on in 200 steps" in (inactive_reason(ended(knobs), knobs) or "")
    assert "temperature" in (inactive_reason(ended(knobs, sampler__policy_on_step=200.0), knobs) or "")
    assert inactive_reason(ended(knobs, sampler__policy_on_step=199.0), knobs) is None


def test_knobs_of_others_act_without_a_sampler() -> None:
    knobs = {"optim.weight_decay": 0.1, "masking.mask_ratio": 0.9}
    assert inactive_reason(ended(knobs), knobs, kind="tats") is None


@pytest.mark.parametrize("kind", ["random", "tube", "adamae", "frame-difference"])
def test_other_rules_draw_from_the_first_step(kind: str) -> None:
    knobs = {f"{VISIBLE}kind": kind}
    assert inactive_reason(ended(knobs), knobs, kind="tats") is None
    assert inactive_reason(ended({f"{VISIBLE}kind": "tats"}), knobs) is not None


def test_a_shared_knob_belongs_to_the_base_runs_kind() -> None:
    knobs = {f"{VISIBLE}num_heads": 2}
    assert inactive_reason(ended(knobs), knobs, kind="adamae") is None
    assert inactive_reason(ended(knobs), knobs, kind="tats") is not None


@pytest.mark.parametrize(("clipfrac", "active"), [(0.0, False), (0.0099, False), (0.01, True), (math.nan, False)])
def test_a_clip_range_that_nobody_left(clipfrac: float, *, active: bool) -> None:
    knobs = {CLIP: 0.4}
    trial = ended(knobs, sampler__policy_on_step=40.0, ppo__clipfrac=clipfrac)
    reason = inactive_reason(trial, knobs)
    assert (reason is None) == active
    assert active or f"{clipfrac:.2%}" in str(reason)
    others = {f"{PPO}temperature": 0.5}
    assert inactive_reason(trial, others) is None


def test_a_clip_range_of_which_nothing_is_known() -> None:
    knobs = {CLIP: 0.4}
    assert "was recorded" in (inactive_reason(ended(knobs, sampler__policy_on_step=40.0), knobs) or "")


def tats(**changes: Any) -> TrainRun:
    named = {path.replace("__", "."): value for path, value in changes.items()}
    fixed = {"training.steps": 200, "training.validate_every": 20, f"{VISIBLE}switch.policy_by": 0.9}
    return change(recipe("tiny"), [*{**fixed, **named}.items()])


def test_a_single_update_a_rollout_has_no_ratio() -> None:
    one = {f"{PPO}update_epochs": 1, f"{PPO}rollout_steps": 1}
    assert "the ratio is always 1" in (why_it_cannot_act(tats(**one), [CLIP]) or "")
    assert why_it_cannot_act(tats(**one), [f"{PPO}temperature", f"{PPO}value_coef"]) is None
    for several in ({**one, f"{PPO}update_epochs": 2}, {**one, f"{PPO}rollout_steps": 2}):
        assert why_it_cannot_act(tats(**several), [CLIP]) is None


def test_a_kl_stop_needs_a_second_pass() -> None:
    one_pass = tats(**{f"{PPO}update_epochs": 1, f"{PPO}rollout_steps": 4})
    assert "one pass" in (why_it_cannot_act(one_pass, [f"{PPO}target_kl"]) or "")
    assert why_it_cannot_act(tats(**{f"{PPO}update_epochs": 2}), [f"{PPO}target_kl"]) is None


@pytest.mark.parametrize("objective", get_args(ObjectiveName))
def test_refusals_are_what_the_objectives_do(objective: ObjectiveName) -> None:
    """A knob is refused exactly where the loss and the logits of the objective do not depend on it."""
    run = tats(**{f"{VISIBLE}objective": objective})
    for knob, values in (("clip_eps", (0.01, 0.5)), ("temperature", (0.1, 2.0))):
        outcomes = [_loss_and_logits(objective, run, **{knob: value}) for value in values]
        depends = not all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))
        assert (why_it_cannot_act(run, [f"{PPO}{knob}"]) is None) == depends, knob


def _loss_and_logits(name: ObjectiveName, run: TrainRun, **knobs: float) -> tuple[torch.Tensor, torch.Tensor]:
    config = run.masking.visible.ppo.model_copy(update=knobs)  # type: ignore[union-attr]
    objective = objective_of(name, config)
    draw = torch.Generator().manual_seed(0)
    actor, drawn, value = (torch.randn(3, 12, generator=draw) for _ in range(3))
    order = torch.stack([torch.randperm(12, generator=draw) for _ in range(3)])
    clip_value = torch.rand(3, generator=draw)
    rollout = Rollout(
        observation=torch.zeros(3, 1),
        log_prob=drawn.log_softmax(1),
        target_idx=order[:, 4:],
        error=torch.rand(3, 8, generator=draw),
        weight=torch.ones(3, 8),
        order=order[:, :4],
        clip_error=torch.rand(3, generator=draw),
    )
    by = Estimate(rollout.log_prob, value, clip_value)
    ((rollout,),) = objective.prepare([[objective.credit(rollout, by)]], lambda total, *, count: float(total) / count)
    loss, _ = objective.loss(Estimate(actor.log_softmax(1), value, clip_value), rollout, temperature=config.temperature)
    return loss, objective.logits(actor, value, temperature=config.temperature)


def test_knobs_of_another_kind() -> None:
    run = change(tats(), [(f"{VISIBLE}kind", "random")])
    assert why_it_cannot_act(run, [CLIP]) == f"{CLIP} is no knob of this trial, whose {VISIBLE}kind is random"
    assert why_it_cannot_act(run, [f"{VISIBLE}kind", "masking.mask_ratio", "data.manifest"]) is None


def test_a_sampler_that_cannot_be_on_before_the_end() -> None:
    """On after the second validation by its limit, after the third by its criterion, then a rollout of four steps."""
    late = {f"{VISIBLE}switch.policy_by": 1.0}
    early = {f"{VISIBLE}switch.policy_by": 0.0}
    knobs = [f"{PPO}temperature"]
    assert "at the earliest" in (why_it_cannot_act(tats(training__steps=43, **early), knobs) or "")
    assert why_it_cannot_act(tats(training__steps=44, **early), knobs) is None
    assert why_it_cannot_act(tats(training__steps=63, **late), knobs) is not None
    assert why_it_cannot_act(tats(training__steps=64, **late), knobs) is None
    assert why_it_cannot_act(tats(training__steps=43, **early), ["optim.weight_decay"]) is None
    taken_over = {"init": "a/checkpoint", "init_takes": "training"}
    assert why_it_cannot_act(tats(training__steps=43, **early, **taken_over), knobs) is None


def test_switches_that_are_thrown_anyway() -> None:
    error, explained = f"{VISIBLE}switch.error_spread", f"{VISIBLE}switch.explained_variance"
    at_once = tats(**{f"{VISIBLE}switch.critic_by": 0.1, f"{VISIBLE}switch.policy_by": 0.3})  # steps 20 and 60
    assert "first validation anyway" in (why_it_cannot_act(at_once, [error]) or "")
    assert "no later than" in (why_it_cannot_act(at_once, [explained]) or "")
    later = tats(**{f"{VISIBLE}switch.critic_by": 0.11, f"{VISIBLE}switch.policy_by": 0.31})
    assert why_it_cannot_act(later, [error, explained]) is None


def test_schedules_without_a_part() -> None:
    assert "no cool-down" in (why_it_cannot_act(tats(), ["optim.cooldown_share"]) or "")
    constant = {"optim.schedule": "constant"}
    assert why_it_cannot_act(tats(**constant), ["optim.cooldown_share", "optim.base_min_learning_rate"]) is None
    assert "never falls" in (
        why_it_cannot_act(tats(**constant, **{"optim.cooldown_share": 0.0}), ["optim.base_min_learning_rate"]) or ""
    )
