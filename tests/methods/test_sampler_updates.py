"""TATS's three stages: who moves in which, and when one gives way to the next."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tats_ray.data.batches import ClipBatch
from tats_ray.masking.tats import SwitchConfig, TATSConfig
from tats_ray.methods.averages import Averages
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.methods.ppo_update import PPOUpdate
from tats_ray.rl.ppo import PPOConfig
from tats_ray.training.stepper import GradientStepper

Batches = Callable[..., ClipBatch]
Methods = Callable[..., MaskedAutoencoding]
Steppers = Callable[..., GradientStepper]

FLAT = {"validation/error_spread": 0.02, "validation/explained_variance": 0.0}
SPREAD = {**FLAT, "validation/error_spread": 0.5}
EXPLAINED = {**FLAT, "validation/explained_variance": 0.2}


def sampler(method: MaskedAutoencoding) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.modules()["tats"].state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def steps(
    method: MaskedAutoencoding, stepper: GradientStepper, batch: ClipBatch, *, count: int, first: int = 0
) -> Averages:
    averages = Averages()
    for step in range(first, first + count):
        method.train_step([batch], step=step, stepper=stepper, averages=averages)
    return averages


def to_policy(method: MaskedAutoencoding) -> None:
    for measured in (SPREAD, EXPLAINED, EXPLAINED):
        method.after_validation(measured, step=0)
    assert method.stage == "policy"


def test_a_resting_sampler_is_left_alone(
    make_method: Methods, make_stepper: Steppers, make_batch: Batches, tats: TATSConfig
) -> None:
    method = make_method(tats)
    before = sampler(method)
    stepper = make_stepper(method)
    measured = steps(method, stepper, make_batch(range(8)), count=4).take()
    assert not moved(before, sampler(method))
    assert not stepper.trainables["sampler"].optimizer.state
    assert not [name for name in measured if name.startswith("ppo/")]
    assert method.at_rest


def test_the_critic_learns_from_uniform_draws_and_leaves_the_actor_alone(
    make_method: Methods, make_stepper: Steppers, make_batch: Batches, tats: TATSConfig
) -> None:
    method = make_method(tats)
    method.after_validation(SPREAD, step=0)
    assert method.stage == "critic"
    before = sampler(method)
    # An actor that prefers some tokens: it must have no say yet.
    torch.nn.init.normal_(method.modules()["tats"].get_parameter("actor.weight"))
    before = sampler(method)
    measured = steps(method, make_stepper(method), make_batch(range(8)), count=4).take()
    changed = moved(before, sampler(method))
    assert {"critic.weight", "critic.bias", "embed.weight"} <= changed
    assert not {"actor.weight", "actor.bias"} & changed
    total, count = measured["sampler/nats_from_uniform"]
    assert total / count == pytest.approx(0, abs=1e-5)
    assert "ppo/approx_kl" not in measured


def test_autoencoder_and_sampler_do_not_move_each_other(
    make_method: Methods, make_stepper: Steppers, make_batch: Batches, tats: TATSConfig
) -> None:
    method = make_method(tats)
    to_policy(method)
    stepper, batch = make_stepper(method), make_batch(range(8))
    seen: list[tuple[str, set[str], set[str]]] = []
    step = stepper.step

    def watched(name: str, *, clips: int) -> bool:
        autoencoder = {key: value.clone() for key, value in method.autoencoder.state_dict().items()}
        scorer = sampler(method)
        done = step(name, clips=clips)
        seen.append((name, moved(autoencoder, method.autoencoder.state_dict()), moved(scorer, sampler(method))))
        return done

    stepper.step = watched  # type: ignore[method-assign]
    steps(method, stepper, batch, count=2)
    # Two steps of the autoencoder, then two epochs over the two gathered batches.
    assert [name for name, _, _ in seen] == ["autoencoder", "autoencoder", *["sampler"] * 4]
    for name, autoencoder, scorer in seen:
        assert bool(autoencoder) == (name == "autoencoder")
        assert bool(scorer) == (name == "sampler")


def test_the_first_minibatch_has_ratio_one(
    make_method: Methods, make_stepper: Steppers, make_batch: Batches, tats: TATSConfig
) -> None:
    config = tats.model_copy(update={"ppo": PPOConfig(rollout_steps=1, update_epochs=1)})
    method = make_method(config)
    torch.nn.init.normal_(method.modules()["tats"].get_parameter("actor.weight"))
    to_policy(method)
    measured = steps(method, make_stepper(method), make_batch(range(8)), count=3).take()
    assert measured["ppo/approx_kl"] == (pytest.approx(0, abs=1e-6), 24)  # 24 sums of 64 float32 terms that cancel
    assert measured["ppo/clipfrac"] == (0.0, 24)
    assert measured["sampler/nats_from_uniform"][0] > 1


def test_the_update_waits_for_its_steps(
    make_method: Methods, make_stepper: Steppers, make_batch: Batches, tats: TATSConfig
) -> None:
    method = make_method(tats.model_copy(update={"ppo": PPOConfig(rollout_steps=3)}))
    to_policy(method)
    stepper, resting, before = make_stepper(method), [], sampler(method)
    for step in range(6):
        steps(method, stepper, make_batch(range(8)), count=1, first=step)
        resting.append(method.at_rest)
        assert bool(moved(before, sampler(method))) == (step >= 2)
    assert resting == [False, False, True, False, False, True]


def test_a_policy_that_ran_away_stops_its_epochs(
    make_method: Methods, make_stepper: Steppers, make_batch: Batches, tats: TATSConfig
) -> None:
    counts = {}
    for target_kl in (1e-12, 10.0):
        ppo = PPOConfig(rollout_steps=2, update_epochs=5, target_kl=target_kl)
        method = make_method(tats.model_copy(update={"ppo": ppo}))
        to_policy(method)
        counts[target_kl] = steps(method, make_stepper(method), make_batch(range(8)), count=2).take()["ppo/approx_kl"][
            1
        ]
    assert counts == {1e-12: 1 * 2 * 8, 10.0: 5 * 2 * 8}


def test_the_temperature_follows_its_target(
    make_method: Methods, make_stepper: Steppers, make_batch: Batches, tats: TATSConfig
) -> None:
    method = make_method(tats.model_copy(update={"ppo": PPOConfig(rollout_steps=1, target_nats=0.1)}))
    to_policy(method)
    update = method.update
    assert isinstance(update, PPOUpdate)
    steps(method, make_stepper(method), make_batch(range(8)), count=1)
    assert update.temperature == pytest.approx(0.951229)  # exp(-0.05): the policy is still uniform, so colder


@pytest.mark.parametrize(
    ("measured", "stages"),
    [
        ([FLAT, FLAT, FLAT], ["random", "random", "random"]),
        ([SPREAD, FLAT, FLAT], ["critic", "critic", "critic"]),  # never back
        ([EXPLAINED, EXPLAINED, EXPLAINED], ["random", "random", "random"]),  # no stage is skipped
        ([SPREAD, EXPLAINED, EXPLAINED], ["critic", "critic", "policy"]),
        ([SPREAD, EXPLAINED, FLAT, EXPLAINED], ["critic"] * 4),  # two checks in a row
        ([SPREAD, EXPLAINED, FLAT, EXPLAINED, EXPLAINED, FLAT], ["critic"] * 4 + ["policy"] * 2),
    ],
)
def test_stages_follow_what_is_measured(
    measured: list[dict[str, float]], stages: list[str], make_method: Methods, tats: TATSConfig
) -> None:
    method = make_method(tats)
    found = []
    for check in measured:
        method.after_validation(check, step=1)
        found.append(method.stage)
    assert found == stages


def test_stages_have_step_limits(make_method: Methods, tats: TATSConfig) -> None:
    method = make_method(tats, total_steps=100)
    events = {}
    for step in range(5, 30, 5):
        events.update(method.after_validation(FLAT, step=step))
    assert events == {
        "sampler/critic_on_step": 15.0,
        "sampler/critic_on_measured": 0.0,
        "sampler/policy_on_step": 20.0,
        "sampler/policy_on_measured": 0.0,
    }


def test_a_measured_switch_says_so(make_method: Methods, tats: TATSConfig) -> None:
    method = make_method(tats)
    assert method.after_validation(SPREAD, step=3) == {"sampler/critic_on_step": 3.0, "sampler/critic_on_measured": 1.0}
    assert method.after_validation(EXPLAINED, step=4) == {}
    assert method.after_validation(EXPLAINED, step=5) == {
        "sampler/policy_on_step": 5.0,
        "sampler/policy_on_measured": 1.0,
    }
    assert method.after_validation(EXPLAINED, step=6) == {}


def test_limits_of_zero_start_at_the_first_checks(make_method: Methods, tats: TATSConfig) -> None:
    method = make_method(tats.model_copy(update={"switch": SwitchConfig(critic_by=0, policy_by=0)}))
    for stage in ("critic", "policy"):
        method.after_validation(FLAT, step=1)
        assert method.stage == stage


def test_state_comes_back(make_method: Methods, tats: TATSConfig) -> None:
    tats = tats.model_copy(update={"ppo": tats.ppo.model_copy(update={"target_nats": 0.1})})
    method = make_method(tats)
    for check in (SPREAD, EXPLAINED):
        method.after_validation(check, step=1)
    assert isinstance(method.update, PPOUpdate)
    method.update.temperature, method.update.updates = 0.7, 13
    other = make_method(tats)
    other.load_state_dict(method.state_dict())
    assert other.state_dict() == method.state_dict()
    other.after_validation(EXPLAINED, step=2)
    assert other.stage == "policy"  # the first good check was remembered
