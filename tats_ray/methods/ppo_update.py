"""TATS's part of a training step: rollouts are gathered, then passed over several times by PPO."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tats_ray.masking.draws import Scores
from tats_ray.masking.plan import MaskPlan
from tats_ray.masking.tats import TATSConfig, TATSScorer
from tats_ray.masking.windowed import WindowedScorer
from tats_ray.methods.averages import Averages
from tats_ray.methods.base import Stepper
from tats_ray.methods.reconstruction import weighted_mean
from tats_ray.nn.patches import take_tokens
from tats_ray.rl.choice import objective_of
from tats_ray.rl.objective import Estimate
from tats_ray.rl.ppo import adapt_temperature, entropy
from tats_ray.rl.reward import reward_error
from tats_ray.rl.rollout import Rollout, hiding_weight, relative_error


class PPOUpdate:
    """TATS: random masks first, then the critic learns, then the policy draws and PPO teaches it.

    Training through the flat phase, in which every token is equally hard, was seen to spoil the sampler; so it is left
    untouched until held-out errors differ within a clip, and the policy waits for a critic that explains some of them.
    """

    kind = "tats"

    def __init__(self, scorer: TATSScorer, config: TATSConfig, *, total_steps: int, seed: int) -> None:
        self.scorer = scorer
        self._read = WindowedScorer(scorer, scorer.grid)  # one window where the scorer's grid is the clip's
        self.config = config
        self.objective = objective_of(config.objective, config.ppo)
        self.total_steps = total_steps
        self.seed = seed
        self.stage = "random"
        self.temperature = config.ppo.temperature
        self.updates = 0
        self._good_checks = 0
        self._gathered: list[list[Rollout]] = [[]]  # by step

    @property
    def at_rest(self) -> bool:
        """Whether no rollout waits for an update."""
        return self._gathered == [[]]

    def score(self, patches: Tensor, truth: Tensor | None = None) -> Scores | None:
        """Score for the draw, without gradient; None while the policy is off."""
        if self.stage != "policy":
            return None
        with torch.no_grad():
            return self._scores(patches)

    def prefer(self, patches: Tensor, truth: Tensor | None = None) -> Scores | None:
        """Score also while the policy is off."""
        return self._scores(patches)

    def joint_loss(self, plan: MaskPlan, scores: Scores | None, error: Tensor) -> Tensor | None:
        """No term: sampler and autoencoder share nothing."""
        return None

    def collect(self, patches: Tensor, plan: MaskPlan, scores: Scores | None, error: Tensor) -> None:
        """Add one micro-batch to the rollouts of this step."""
        if self.stage == "random":
            return
        assert plan.draw is not None
        log_prob, decode_weight = plan.draw.log_prob, plan.decode_weight
        rollout = Rollout(
            observation=patches,
            log_prob=log_prob,
            target_idx=plan.target_idx,
            error=relative_error(self.reward(error, patches, plan.target_idx), decode_weight),
            weight=self._weight(log_prob, plan.draw.threshold).gather(1, plan.target_idx) * decode_weight,
            decode_weight=decode_weight,
            order=plan.draw.order,
            clip_error=weighted_mean(error, decode_weight),
        )
        self._gathered[-1].append(rollout if scores is None else self.objective.credit(rollout, _estimate(scores)))

    def reward(self, error: Tensor, patches: Tensor, target_idx: Tensor) -> Tensor:
        """Return errors as the sampler is rewarded for them, ``[clips, target]``."""
        if self.config.reward.error == "normalised":
            return error
        return reward_error(error, take_tokens(patches, target_idx), self.config.reward)

    def improve(self, stepper: Stepper, averages: Averages) -> None:
        """Run the update epochs once ``rollout_steps`` steps are gathered."""
        if self.stage == "random":
            return
        if len(self._gathered) < self.config.ppo.rollout_steps:
            self._gathered.append([])
            return
        gathered, self._gathered = self.objective.prepare(self._gathered, stepper.mean), [[]]
        nats_before = self._measure(gathered, averages)
        stopped = False
        for epoch in range(self.config.ppo.update_epochs):
            order = torch.randperm(
                len(gathered), generator=torch.Generator().manual_seed(self.seed + self.updates * 1009 + epoch)
            )
            kl = [self._minibatch(gathered[index], stepper, averages) for index in order.tolist()]
            if self.stage == "policy" and self._mean_kl(kl, stepper) > self.config.ppo.target_kl:
                stopped = True
                break
        averages.add("ppo/early_stop_share", float(stopped))
        self.updates += 1
        if self.stage == "policy" and self.config.ppo.target_nats is not None:
            nats = stepper.mean(nats_before.sum(), count=len(nats_before))
            self.temperature = adapt_temperature(self.temperature, nats=nats, target_nats=self.config.ppo.target_nats)

    def after_validation(self, measured: Mapping[str, float], *, step: int) -> Mapping[str, float]:
        """Move on to the next stage when its criterion is met, or its step limit is reached."""
        switch = self.config.switch
        if self.stage == "random":
            spread = measured["validation/error_spread"] > switch.error_spread
            if spread or step >= switch.critic_by * self.total_steps:
                self.stage = "critic"
                self._gathered = [[]]
                return {"sampler/critic_on_step": float(step), "sampler/critic_on_measured": float(spread)}
        elif self.stage == "critic":
            explained = measured.get("validation/explained_variance", 0.0) > switch.explained_variance
            self._good_checks = self._good_checks + 1 if explained else 0
            if self._good_checks >= 2 or step >= switch.policy_by * self.total_steps:
                self.stage = "policy"
                self._gathered = [[]]
                return {
                    "sampler/policy_on_step": float(step),
                    "sampler/policy_on_measured": float(self._good_checks >= 2),
                }
        return {}

    def state_dict(self) -> dict[str, object]:
        """State beside the scorer's parameters; rollouts are not in it, since checkpoints are taken at rest."""
        return {
            "stage": self.stage,
            "temperature": self.temperature,
            "updates": self.updates,
            "good_checks": self._good_checks,
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.stage = str(state["stage"])
        if self.config.ppo.target_nats is not None:  # else it is a setting, with which a run may go on changed
            self.temperature = float(state["temperature"])  # type: ignore[arg-type]
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        self._good_checks = int(state["good_checks"])  # type: ignore[call-overload]

    def _scores(self, patches: Tensor) -> Scores:
        """Score with the policy that the objective makes of actor and critic."""
        scores = self._read(patches)
        value = scores.value
        assert value is not None
        if self.config.reward.critic == "constant":
            value = 1 + 0 * value  # with a gradient, which is zero
        logits = self.objective.logits(scores.logits, value, temperature=self.temperature)
        return replace(scores, logits=logits, value=value)

    def _weight(self, log_prob: Tensor, threshold: Tensor) -> Tensor:
        return hiding_weight(log_prob, threshold, log_cap=self.config.reward.log_weight_cap)

    def _minibatch(self, rollouts: Sequence[Rollout], stepper: Stepper, averages: Averages) -> Tensor:
        kl = torch.zeros(0)
        clips = 0
        for rollout in rollouts:
            with stepper.autocast():
                estimate = _estimate(self._scores(rollout.observation))
            if self.stage == "policy":
                loss, stats = self.objective.loss(estimate, rollout, temperature=self.temperature)
                kl = torch.cat([kl.to(loss.device), stats["approx_kl"]])
            else:
                value_loss, stats = self.objective.value_loss(estimate, rollout)
                loss = self.config.ppo.value_coef * value_loss
            stepper.accumulate("sampler", loss.sum())
            averages.add_all("ppo", stats)
            clips += len(rollout)
        stepper.step("sampler", clips=clips)
        return kl

    def _mean_kl(self, kl: list[Tensor], stepper: Stepper) -> float:
        together = torch.cat([part.cpu() for part in kl])
        return stepper.mean(together.sum(), count=len(together))

    def _measure(self, gathered: Sequence[Sequence[Rollout]], averages: Averages) -> Tensor:
        """Record what the rollouts were drawn from; return each clip's distance from uniform in nats."""
        nats = [torch.zeros(0)]
        for rollout in (rollout for step in gathered for rollout in step):
            tokens = rollout.log_prob.shape[1]
            nats.append(math.log(tokens) - entropy(rollout.log_prob).cpu())
            averages.add("sampler/nats_from_uniform", nats[-1])
            averages.add("sampler/max_probability", rollout.log_prob.max(1).values.exp() * tokens)
            averages.add("sampler/weight_cap_share", _at_cap(rollout, self.config.reward.log_weight_cap))
            averages.add("ppo/error_variance", _variance(rollout))
        averages.add("sampler/temperature", self.temperature)
        return torch.cat(nats)


def _variance(rollout: Rollout) -> Tensor:
    """Each clip's weighted variance of the errors around the clip's mean, which is 1."""
    return (rollout.weight * (rollout.error - 1).square()).sum(1) / rollout.weight.sum(1)


def _at_cap(rollout: Rollout, log_cap: float) -> Tensor:
    """Which of the targets that count have their hiding weight at its cap, 0 or 1 each."""
    assert rollout.decode_weight is not None
    counts = rollout.decode_weight > 0
    hiding = rollout.weight[counts] / rollout.decode_weight[counts]
    return (hiding >= math.exp(log_cap) * 0.999).float()


def _estimate(scores: Scores) -> Estimate:
    assert scores.value is not None
    return Estimate(scores.log_prob, scores.value, scores.clip_value)
