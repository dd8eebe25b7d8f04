"""Whether the swept knobs of a trial can act, asked before it starts, and whether they did, asked when it is over."""

import math
from collections.abc import Collection, Iterator
from typing import assert_never

from tats_ray.config.overrides import flatten
from tats_ray.config.run import TrainRun
from tats_ray.masking.adamae import AdaMAEConfig
from tats_ray.masking.tats import TATSConfig
from tats_ray.rl.choice import WITH_CLIP_VALUE
from tats_ray.sweeping.trials import Trial

SAMPLER = "masking.visible."
KIND = f"{SAMPLER}kind"
PPO = f"{SAMPLER}ppo."
REWARD = f"{SAMPLER}reward."
CLIP = f"{PPO}clip_eps"
POLICY_ON = "sampler/policy_on_step"
CLIPFRAC = "ppo/clipfrac"
BOUNDS = {
    CLIP: (CLIPFRAC, "of the ratios left the clip range"),
    f"{REWARD}log_weight_cap": ("sampler/weight_cap_share", "of the hiding weights reached the cap"),
}
"""Knobs that bound something, each with the metric that says how often it did."""
LEAST_SHARE = 0.01
"""A bound that is met less often is as good as none."""

_TATS_ALONE = tuple(f"{SAMPLER}{name}" for name in TATSConfig.model_fields.keys() - AdaMAEConfig.model_fields.keys())


def inactive_reason(trial: Trial, knobs: Collection[str], *, kind: str | None = None) -> str | None:
    """Say which swept knob had no effect in a trial that ran; None where all had, as far as can be told.

    Args:
        trial: With its summary, and the metrics of ``BOUNDS`` as means over all its updates.
        knobs: The sweep's dotted paths.
        kind: Of the base run's sampler, for sweeps that do not choose it. Without it a sampler is TATS's where a knob
            is of that kind alone.
    """
    of_sampler = [path for path in knobs if path.startswith(SAMPLER)]
    if not of_sampler or _kind(trial, of_sampler, kind) != "tats":
        return None  # other samplers draw from the first step on
    steps = trial.metrics.get("step", trial.curve[-1].step if trial.curve else 0)
    was_on = trial.metrics.get(POLICY_ON, steps) < steps
    if not was_on and CLIPFRAC not in trial.metrics:  # ratios are measured of a policy that is on alone
        few = _few(of_sampler)
        return f"its sampler was never on in {steps:.0f} steps, so it trained on random masks, without effect of {few}"
    reasons = (_did_not_bind(path, trial.metrics.get(BOUNDS[path][0])) for path in knobs if path in BOUNDS)
    return next((reason for reason in reasons if reason is not None), None)


def _did_not_bind(path: str, share: float | None) -> str | None:
    metric, what = BOUNDS[path]
    if share is None:
        return f"no {metric} was recorded, so nobody knows whether {path} had an effect"
    if not share >= LEAST_SHARE:
        return f"{path} had no effect: {share:.2%} {what}, fewer than {LEAST_SHARE:.0%} ({metric}, mean of all updates)"
    return None


def why_it_cannot_act(run: TrainRun, swept_paths: Collection[str]) -> str | None:
    """Say which swept knob cannot have an effect in a run with these settings; None where all can.

    Args:
        run: One trial's, complete.
        swept_paths: Dotted paths of the sweep.
    """
    held = flatten(run.model_dump())
    visible = run.masking.visible
    for path in swept_paths:
        if path not in held and not any(name.startswith(f"{path}.") for name in held):
            return f"{path} is no knob of this trial, whose {KIND} is {visible.kind}"
    reasons = list(_of_schedule(run))
    if isinstance(visible, TATSConfig):
        reasons += [*_of_ppo(visible), *_of_reward(visible), *_of_switch(run, visible)]
    return next(
        (f"{path} cannot act: {reason}" for path in swept_paths for named, reason in reasons if path.startswith(named)),
        None,
    )


def _of_schedule(run: TrainRun) -> Iterator[tuple[str, str]]:
    """Yield paths, or how they begin, with why the learning rate does not depend on them."""
    optim = run.optim
    match optim.schedule:
        case "cosine":
            yield "optim.cooldown_share", "with optim.schedule=cosine there is no cool-down"
        case "constant":
            if not optim.cooldown_share:
                yield "optim.base_min_learning_rate", "with optim.cooldown_share=0 the rate never falls to it"
        case never:
            assert_never(never)


def _of_ppo(config: TATSConfig) -> Iterator[tuple[str, str]]:
    """Yield the knobs that an objective, or the number of its passes, leaves without a part."""
    ppo = config.ppo
    if ppo.update_epochs == 1:
        if ppo.rollout_steps == 1:
            yield (
                CLIP,
                f"with a single update a rollout ({PPO}update_epochs=1, {PPO}rollout_steps=1) the ratio is always 1",
            )
        yield f"{PPO}target_kl", f"it ends an update between its passes, and {PPO}update_epochs=1 is one pass"
    if ppo.update_epochs == 2 and ppo.rollout_steps == 1:
        yield (
            f"{PPO}target_kl",
            f"with {PPO}rollout_steps=1 the first pass is one step, before which nothing has diverged, and the second "
            f"is the last ({PPO}update_epochs=2)",
        )
    if config.objective == "regress":
        yield CLIP, f"{SAMPLER}objective=regress has no ratio, so nothing is clipped"
    if config.objective == "surrogate":
        yield f"{PPO}temperature", f"{SAMPLER}objective=surrogate has no entropy, so the temperature has no part in it"


def _of_reward(config: TATSConfig) -> Iterator[tuple[str, str]]:
    """Yield what only a part of the reward reads that is not there."""
    reward = config.reward
    if reward.error != "noise-weighted":
        yield f"{REWARD}noise", f"{REWARD}error={reward.error} does not ask for the noise"
    if reward.critic == "trained":
        return
    no_critic = f"with {REWARD}critic=constant and {SAMPLER}objective={config.objective} nothing that learns reads it"
    if config.objective in WITH_CLIP_VALUE:  # these are taught by whole clips; tokens' errors teach the critic alone
        yield f"{REWARD}error", no_critic
        yield f"{REWARD}noise", no_critic
    else:
        yield f"{PPO}value_coef", no_critic
    if config.objective != "withheld":
        yield f"{REWARD}log_weight_cap", no_critic


def _of_switch(run: TrainRun, config: TATSConfig) -> Iterator[tuple[str, str]]:
    """Yield what comes too late, or is decided already, given that switches are thrown at validations only.

    The critic starts at the first validation at the earliest. A step limit starts the policy one validation later, its
    criterion, which has to hold twice, two later. A run that takes over all of another's training may have both on.
    """
    total, every, switch = run.training.steps, run.training.validate_every, config.switch
    if total is None or (run.init is not None and run.init_takes == "training"):
        return
    explains = config.reward.critic == "trained"  # a constant critic never does, so the step limit alone decides
    by_limit = max(2, math.ceil(switch.policy_by * total / every)) * every
    earliest = min(by_limit, 3 * every) if explains else by_limit
    if earliest + config.ppo.rollout_steps > total:
        yield (
            SAMPLER,
            f"the sampler is on after step {earliest} at the earliest and learns every {config.ppo.rollout_steps} "
            f"steps after it, and the run ends at step {total}: lower training.validate_every ({every}) or set more "
            f"training.steps",
        )
    if switch.critic_by * total <= every:
        yield (
            f"{SAMPLER}switch.error_spread",
            f"{SAMPLER}switch.critic_by={switch.critic_by:g} starts the critic at the first validation anyway",
        )
    if by_limit <= 3 * every:
        yield (
            f"{SAMPLER}switch.explained_variance",
            f"{SAMPLER}switch.policy_by={switch.policy_by:g} starts the policy no later than the criterion can",
        )
    if not explains and switch.explained_variance >= 0:
        yield f"{SAMPLER}switch.explained_variance", f"with {REWARD}critic=constant nothing is ever explained"


def _kind(trial: Trial, of_sampler: Collection[str], kind: str | None) -> str | None:
    if KIND in trial.knobs:
        return trial.knobs[KIND]
    return "tats" if any(path.startswith(_TATS_ALONE) for path in of_sampler) else kind


def _few(paths: Collection[str]) -> str:
    shown = [path.removeprefix(SAMPLER) for path in paths]
    return ", ".join(shown[:3]) + (" and others" if len(shown) > 3 else "")
