"""Every objective of the sampler where it is used: it trains, in any micro-batches, and goes on as it was."""

import copy
import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tats_ray.data.batches import ClipBatch
from tats_ray.masking.tats import TATSConfig
from tats_ray.methods.averages import Averages
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.methods.ppo_update import PPOUpdate
from tats_ray.nn.patches import patchify
from tats_ray.rl.choice import ObjectiveName, objective_of
from tats_ray.rl.objective import Estimate
from tats_ray.rl.ppo import PPOConfig, ppo_loss
from tats_ray.rl.rollout import Rollout, withheld_advantage
from tats_ray.training.stepper import GradientStepper

Batches = Callable[..., ClipBatch]
Methods = Callable[..., MaskedAutoencoding]
Steppers = Callable[..., GradientStepper]

NAMES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)
READY = {"validation/error_spread": 1.0, "validation/explained_variance": 1.0}
ORDER = ("order-low-error", "order-high-error")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> ObjectiveName:
    return request.param


def to_policy(method: MaskedAutoencoding) -> None:
    for _ in range(3):
        method.after_validation(READY, step=0)
    assert method.stage == "policy"


def train(
    method: MaskedAutoencoding,
    stepper: GradientStepper,
    make_batch: Batches,
    *,
    steps: range,
    cuts: tuple = (range(8),),
) -> dict[str, tuple[float, float]]:
    averages = Averages()
    for step in steps:
        method.train_step([make_batch(c, seed=step) for c in cuts], step=step, stepper=stepper, averages=averages)
    return averages.take()


def weights(method: MaskedAutoencoding) -> dict[str, Tensor]:
    modules = method.modules().items()
    return {f"{name}.{key}": value.clone() for name, module in modules for key, value in module.state_dict().items()}


def test_every_objective_moves_what_it_teaches(
    name: ObjectiveName, make_method: Methods, make_stepper: Steppers, make_batch: Batches, tats: TATSConfig
) -> None:
    method = make_method(tats.model_copy(update={"objective": name}))
    to_policy(method)
    before, stepper = weights(method), make_stepper(method)
    measured = train(method, stepper, make_batch, steps=range(8))
    moved = {key for key, value in weights(method).items() if not torch.equal(before[key], value)}
    assert all(value.isfinite().all() for value in weights(method).values())
    assert all(math.isfinite(total) for total, _ in measured.values())
    assert stepper.skipped_steps == 0
    assert method.at_rest
    assert {"tats.embed.weight", "tats.critic.weight"} <= moved
    assert ("tats.actor.weight" in moved) == (name != "regress")
    assert ("tats.clip_critic.weight" in moved) == (name in ORDER)
    assert ("ppo/clip_value_loss" in measured) == (name in ORDER)
    total, count = measured["sampler/nats_from_uniform"]
    assert total / count > 1e-6  # the draws have followed


def test_the_first_minibatch_has_ratio_one(
    name: ObjectiveName, make_method: Methods, make_stepper: Steppers, make_batch: Batches, tats: TATSConfig
) -> None:
    ppo = PPOConfig(rollout_steps=1, update_epochs=1)
    method = make_method(tats.model_copy(update={"objective": name, "ppo": ppo}))
    for head in ("actor", "critic"):
        torch.nn.init.normal_(method.modules()["tats"].get_parameter(f"{head}.weight"))
    to_policy(method)
    measured = train(method, make_stepper(method), make_batch, steps=range(3))
    assert measured["ppo/approx_kl"] == (pytest.approx(0, abs=1e-6), 24)  # 24 sums of 64 float32 terms that cancel
    assert measured.get("ppo/clipfrac", (0.0, 24)) == (0.0, 24)
    assert measured["sampler/nats_from_uniform"][0] > 1


def test_a_batch_is_learnt_whatever_its_micro_batches(
    name: ObjectiveName, make_method: Methods, make_stepper: Steppers, make_batch: Batches, tats: TATSConfig
) -> None:
    results = []
    for cuts in ((range(8),), (range(3), range(0), range(3, 8))):
        method = make_method(tats.model_copy(update={"objective": name}))
        to_policy(method)
        stepper = make_stepper(method)
        for trainable in stepper.trainables.values():  # AdamW makes full steps of the rounding of a zero gradient
            trainable.optimizer, trainable.schedule = torch.optim.SGD(trainable.parameters, lr=0.05), None
        train(method, stepper, make_batch, steps=range(4), cuts=cuts)
        results.append(weights(method))
    whole, parts = results
    for key, value in parts.items():
        # Gradients are sums over clips, so only the order of float32 additions differs.
        assert torch.allclose(value, whole[key], atol=1e-6, rtol=0), key


def test_a_resumed_run_is_the_run_that_never_stopped(
    name: ObjectiveName, make_method: Methods, make_stepper: Steppers, make_batch: Batches, tats: TATSConfig
) -> None:
    config = tats.model_copy(update={"objective": name})
    method = make_method(config)
    stepper = make_stepper(method)
    to_policy(method)
    train(method, stepper, make_batch, steps=range(4))
    other = make_method(config, seed=1)
    resumed = make_stepper(other)
    for key, module in other.modules().items():
        module.load_state_dict(copy.deepcopy(method.modules()[key].state_dict()))
    for key, trainable in resumed.trainables.items():
        trainable.optimizer.load_state_dict(copy.deepcopy(stepper.trainables[key].optimizer.state_dict()))
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    other.seed = method.seed
    assert isinstance(other.update, PPOUpdate)
    other.update.seed = method.seed
    train(method, stepper, make_batch, steps=range(4, 8))
    train(other, resumed, make_batch, steps=range(4, 8))
    assert other.state_dict() == method.state_dict()
    gone_on = weights(method)
    assert all(torch.equal(value, gone_on[key]) for key, value in weights(other).items())


def test_in_the_critics_stage_every_objective_draws_uniformly_and_leaves_the_actor_alone(
    name: ObjectiveName, make_method: Methods, make_stepper: Steppers, make_batch: Batches, tats: TATSConfig
) -> None:
    method = make_method(tats.model_copy(update={"objective": name}))
    method.after_validation(READY, step=0)
    assert method.stage == "critic"
    before = weights(method)
    measured = train(method, make_stepper(method), make_batch, steps=range(4))
    moved = {key for key, value in weights(method).items() if not torch.equal(before[key], value)}
    assert "tats.critic.weight" in moved
    assert ("tats.clip_critic.weight" in moved) == (name in ORDER)
    assert "tats.actor.weight" not in moved
    assert measured["sampler/nats_from_uniform"][0] == pytest.approx(0, abs=1e-4)  # 32 clips
    assert "ppo/approx_kl" not in measured


def test_regress_draws_and_reports_the_policy_of_its_critic(
    make_method: Methods, make_stepper: Steppers, make_batch: Batches, tats: TATSConfig
) -> None:
    ppo = PPOConfig(rollout_steps=1, update_epochs=1, temperature=0.25)
    method = make_method(tats.model_copy(update={"objective": "regress", "ppo": ppo}))
    for head in ("actor", "critic"):  # the actor's preference must not be heard
        torch.nn.init.normal_(method.modules()["tats"].get_parameter(f"{head}.weight"))
    to_policy(method)
    patches = patchify(make_batch(range(8), seed=0).video, method.grid)
    with torch.no_grad():
        p = torch.softmax(method.modules()["tats"](patches).value / 0.25, 1)
    scores = method.scores(patches)
    assert scores is not None
    assert torch.allclose(scores.log_prob.exp(), p, atol=1e-6)
    measured = train(method, make_stepper(method), make_batch, steps=range(1))
    nats = (p * (p * method.grid.num_tokens).log()).sum(1)
    assert measured["sampler/nats_from_uniform"] == (pytest.approx(float(nats.sum()), rel=1e-4), 8)
    most = p.max(1).values * method.grid.num_tokens
    assert measured["sampler/max_probability"] == (pytest.approx(float(most.sum()), rel=1e-4), 8)


def test_objectives_start_from_the_same_weights(make_method: Methods, tats: TATSConfig) -> None:
    first, *others = (weights(make_method(tats.model_copy(update={"objective": name}))) for name in NAMES)
    for other in others:
        assert all(torch.equal(value, other[key]) for key, value in first.items())
        assert {key for key in other if key not in first} <= {"tats.clip_critic.weight", "tats.clip_critic.bias"}


def test_the_default_is_the_withheld_token_bandit() -> None:
    assert TATSConfig().objective == "withheld"
    noise = torch.Generator().manual_seed(0)
    log_prob, new = torch.log_softmax(torch.randn(2, 3, 6, generator=noise), -1)
    value, error = torch.rand(3, 6, generator=noise), torch.rand(3, 2, generator=noise)
    told = Rollout(torch.zeros(0), log_prob, torch.tensor([[1, 4]] * 3), error, 1 + error)
    objective = objective_of("withheld", PPOConfig())
    credited = objective.credit(told, Estimate(log_prob, value))
    advantage = withheld_advantage(
        log_prob=log_prob, value=value, target_idx=told.target_idx, error=error, weight=told.weight
    )
    assert credited.advantage is not None
    assert torch.equal(credited.advantage, advantage)
    loss, stats = objective.loss(Estimate(new, value), credited, temperature=0.7)
    wanted, wanted_stats = ppo_loss(log_prob=new, value=value, rollout=credited, temperature=0.7, config=PPOConfig())
    assert torch.equal(loss, wanted)
    assert all(torch.equal(stats[key], wanted_stats[key]) for key in wanted_stats)


@pytest.mark.parametrize("name", ["surrogate", *ORDER])
def test_a_target_for_a_temperature_that_sets_nothing_is_refused(name: str) -> None:
    with pytest.raises(
        ValidationError, match=f"target_nats adapts the temperature.*0.1 with {name}; set target_nats to"
    ):
        TATSConfig.model_validate({"objective": name, "ppo": {"target_nats": 0.1}})


@pytest.mark.parametrize("name", ["withheld", "regress"])
def test_a_target_is_followed_where_the_temperature_sets_the_policy(
    name: str, make_method: Methods, make_stepper: Steppers, make_batch: Batches, tats: TATSConfig
) -> None:
    TATSConfig.model_validate({"objective": name, "ppo": {"target_nats": 0.1}})
    ppo = PPOConfig(rollout_steps=1, target_nats=0.1)
    method = make_method(tats.model_copy(update={"objective": name, "ppo": ppo}))
    to_policy(method)
    train(method, make_stepper(method), make_batch, steps=range(1))
    assert isinstance(method.update, PPOUpdate)
    assert method.update.temperature == pytest.approx(0.951229)  # exp(-0.05): the policy is still uniform, so colder
