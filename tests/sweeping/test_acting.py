"""Knobs that cannot act, and knobs that did not."""

import math
from collections.abc import Mapping
from typing import Any, get_args

import pytest
import torch

from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.data.batches import ClipBatch
from tats_ray.methods.averages import Averages
from tats_ray.methods.ppo_update import PPOUpdate
from tats_ray.recipes import recipe
from tats_ray.rl.choice import ObjectiveName
from tats_ray.sweeping.acting import inactive_reason, why_it_cannot_act
from tats_ray.sweeping.trials import Point, Trial
from tats_ray.training.context import LocalContext
from tats_ray.training.stepper import GradientStepper
from tats_ray.worker import build, make_trainables

VISIBLE = "masking.visible."
PPO = f"{VISIBLE}ppo."
CLIP = f"{PPO}clip_eps"
REWARD = f"{VISIBLE}reward."


def ended(knobs: dict[str, Any], **metrics: float) -> Trial:
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return Trial("a", knobs, 0, "finished", metrics={"step": 200.0, **named}, curve=[Point(200, 1.0, 0.5)])


def test_a_sampler_that_was_never_on() -> None:
    knobs = {f"{PPO}temperature": 0.5}
    assert "never on in 200 steps" in (inactive_reason(ended(knobs), knobs) or "")
    assert "temperature" in (inactive_reason(ended(knobs, sampler__policy_on_step=200.0), knobs) or "")
    assert inactive_reason(ended(knobs, sampler__policy_on_step=199.0), knobs) is None


def test_a_sampler_that_another_run_switched_on() -> None:
    """A run that takes over a training whose policy is on logs no switch; but it has ratios."""
    knobs = {f"{PPO}temperature": 0.5}
    assert inactive_reason(ended(knobs, ppo__clipfrac=0.0), knobs) is None


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


@pytest.mark.parametrize(("share", "active"), [(0.0, False), (0.0099, False), (0.01, True)])
def test_a_cap_that_no_weight_reached(share: float, *, active: bool) -> None:
    knobs = {f"{REWARD}log_weight_cap": 3.0, CLIP: 0.1}
    trial = ended(knobs, ppo__clipfrac=0.2, sampler__weight_cap_share=share)
    reason = inactive_reason(trial, knobs)
    assert (reason is None) == active
    assert active or f"log_weight_cap had no effect: {share:.2%} of the hiding weights" in str(reason)


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


@pytest.mark.parametrize(
    ("epochs", "steps", "acts"), [(1, 4, False), (2, 1, False), (2, 2, True), (3, 1, True), (1, 1, False)]
)
def test_a_kl_stop_needs_a_divergence_before_the_last_pass(epochs: int, steps: int, *, acts: bool) -> None:
    knob = f"{PPO}target_kl"
    run = small(**{f"{PPO}update_epochs": epochs, f"{PPO}rollout_steps": steps})
    one, other = (trained(change(run, [(knob, value)])) for value in (1e-9, 1.0))
    assert torch.equal(one, other) != acts
    assert (why_it_cannot_act(run, [knob]) is None) == acts


VALUES: Mapping[str, tuple[object, object]] = {
    f"{PPO}clip_eps": (0.001, 0.5),
    f"{PPO}temperature": (0.1, 2.0),
    f"{PPO}value_coef": (0.1, 2.0),
    f"{PPO}target_kl": (1e-9, 1.0),
    f"{REWARD}error": ("normalised", "raw"),
    f"{REWARD}noise": (0.01, 0.5),
    f"{REWARD}log_weight_cap": (0.01, 3.0),
}


PAIRS = [(objective, critic) for objective in get_args(ObjectiveName) for critic in ("trained", "constant")]
PAIRS.remove(("regress", "constant"))  # no such configuration


@pytest.mark.parametrize(("objective", "critic"), PAIRS)
def test_refusals_are_what_training_does(objective: ObjectiveName, critic: str) -> None:
    """A knob is refused exactly where training with two of its values gives the same sampler, bit for bit."""
    run = small(**{f"{VISIBLE}objective": objective, f"{REWARD}critic": critic})
    for knob, values in VALUES.items():
        one, other = (trained(change(run, [(knob, value)])) for value in values)
        refused = all(why_it_cannot_act(change(run, [(knob, value)]), [knob]) is not None for value in values)
        assert torch.equal(one, other) == refused, knob


def test_the_noise_acts_where_it_is_asked_for() -> None:
    run = small(**{f"{REWARD}error": "noise-weighted"})
    one, other = (trained(change(run, [(f"{REWARD}noise", value)])) for value in (0.01, 0.5))
    assert not torch.equal(one, other)
    assert why_it_cannot_act(run, [f"{REWARD}noise"]) is None


def small(**changes: Any) -> TrainRun:
    shape = {
        "data.num_frames": 4,
        "data.crop_size": 16,
        "model.patch_size": 4,
        "model.encoder.embed_dim": 16,
        "model.encoder.num_heads": 2,
        "model.encoder.depth": 1,
        "model.decoder.embed_dim": 16,
        "training.global_batch": 4,
        "training.micro_batch": 4,
        f"{VISIBLE}embed_dim": 8,
        f"{PPO}rollout_steps": 2,
        f"{PPO}update_epochs": 2,
        f"{PPO}learning_rate": 0.05,
    }
    return tats(**{**shape, **changes})


def trained(run: TrainRun) -> torch.Tensor:
    """Return the sampler's parameters after a few steps with its policy on."""
    cpu = torch.device("cpu")
    method = build(run, 10, cpu)
    assert isinstance(method.update, PPOUpdate)
    method.update.stage = "policy"
    stepper = GradientStepper(
        make_trainables(run, method, 10), LocalContext(cpu), precision="fp32", max_skipped_steps=0
    )
    pixels = torch.Generator().manual_seed(0)
    for step in range(4):
        video = torch.randint(0, 256, (4, 4, 16, 16, 3), dtype=torch.uint8, generator=pixels)
        video = (video * torch.rand(4, 4, 16, 16, 1, generator=pixels)).to(torch.uint8)  # of unlike contrast
        stepper.begin_step(step + 1)
        method.train_step([ClipBatch(video, torch.arange(4))], step=step, stepper=stepper, averages=Averages())
    return torch.cat([parameter.detach().flatten() for parameter in method.update.scorer.parameters()])


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
    constant = change(later, [(f"{REWARD}critic", "constant")])
    assert "nothing is ever explained" in (why_it_cannot_act(constant, [explained]) or "")


def test_a_constant_critic_leaves_the_switch_to_its_limit() -> None:
    """The criterion could be met at step 60; the limit at the end."""
    late = tats(training__validate_every=20, **{f"{VISIBLE}switch.policy_by": 0.99})
    assert why_it_cannot_act(late, [f"{PPO}temperature"]) is None
    constant = change(late, [(f"{REWARD}critic", "constant")])
    assert "after step 200 at the earliest" in (why_it_cannot_act(constant, [f"{PPO}temperature"]) or "")


def test_schedules_without_a_part() -> None:
    assert "no cool-down" in (why_it_cannot_act(tats(), ["optim.cooldown_share"]) or "")
    constant = {"optim.schedule": "constant"}
    assert why_it_cannot_act(tats(**constant), ["optim.cooldown_share", "optim.base_min_learning_rate"]) is None
    assert "never falls" in (
        why_it_cannot_act(tats(**constant, **{"optim.cooldown_share": 0.0}), ["optim.base_min_learning_rate"]) or ""
    )
