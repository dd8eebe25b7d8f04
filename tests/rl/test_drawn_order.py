"""PPO on the drawn order against the enumeration of all orders of two out of four tokens."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch
from torch import Tensor

from tats_ray.rl.drawn_order import DrawnOrder, Reward
from tats_ray.rl.objective import Estimate
from tats_ray.rl.ppo import PPOConfig, critic_loss
from tats_ray.rl.rollout import Rollout

TOKENS = 4
ORDERS = torch.tensor(list(permutations(range(TOKENS), 2)))
LOGITS = torch.tensor([0.4, -0.3, 0.1, 0.0])
# The mean error when tokens a and b are visible: symmetric, otherwise unrelated.
TABLE = 0.5 + torch.rand(TOKENS, TOKENS, generator=torch.Generator().manual_seed(5))
ERROR = torch.maximum(TABLE, TABLE.T)[ORDERS[:, 0], ORDERS[:, 1]]
SIGN: dict[Reward, float] = {"high error": 1.0, "low error": -1.0}


def as_it_is(total: Tensor, *, count: int) -> float:
    """Stands for the mean over workers: errors keep their unit."""
    return 1.0


def of_all_workers(total: Tensor, *, count: int) -> float:
    """Another worker had two clips with errors of 5 together."""
    return (float(total) + 5.0) / (count + 2)


def rollouts(objective: DrawnOrder, log_prob: Tensor, *, clip_value: float = 1.0) -> Rollout:
    """Every order once, credited by a policy and a critic of whole clips."""
    clips = len(ORDERS)
    rollout = Rollout(
        observation=torch.zeros(0),
        log_prob=log_prob.detach().expand(clips, -1),
        target_idx=torch.zeros(clips, 1, dtype=torch.int64),
        error=torch.ones(clips, 1),
        weight=torch.ones(clips, 1),
        order=ORDERS,
        clip_error=ERROR,
    )
    drawn_by = Estimate(rollout.log_prob, torch.ones(clips, TOKENS), torch.full((clips,), clip_value))
    ((prepared,),) = objective.prepare([[objective.credit(rollout, drawn_by)]], as_it_is)
    return prepared


def estimate(log_prob: Tensor, *, clip_value: float = 1.0) -> Estimate:
    clips = len(ORDERS)
    return Estimate(log_prob.expand(clips, -1), torch.ones(clips, TOKENS), torch.full((clips,), clip_value))


def chance(p: Tensor) -> Tensor:
    """Probability of every order by the definition, ``[orders]``."""
    first, second = p[ORDERS[:, 0]], p[ORDERS[:, 1]]
    return first * second / (1 - first)


@pytest.mark.parametrize("reward", ["low error", "high error"])
@pytest.mark.parametrize("clip_value", [0.0, 1.0, 3.0])
def test_the_expected_gradient_is_that_of_the_expected_reward_and_the_entropy(
    reward: Reward, clip_value: float
) -> None:
    objective, temperature = DrawnOrder(PPOConfig(value_coef=0.0), reward=reward), 0.3
    logits = LOGITS.clone().requires_grad_()
    log_prob = torch.log_softmax(logits, 0)[None]
    told = rollouts(objective, log_prob, clip_value=clip_value)
    loss, _ = objective.loss(estimate(log_prob), told, temperature=temperature)
    (found,) = torch.autograd.grad((chance(log_prob[0].detach().exp()) * loss).sum(), logits)

    exact = LOGITS.double().requires_grad_()
    p = exact.softmax(0)
    aim = SIGN[reward] * (chance(p) * ERROR.double()).sum() - temperature * (p * p.log()).sum()
    (wanted,) = torch.autograd.grad(-aim, exact)
    assert wanted.abs().max() > 0.01
    # Twelve float32 terms of order one; any constant expected of the clip cancels.
    assert torch.allclose(found.double(), wanted, atol=1e-6)


@pytest.mark.parametrize("reward", ["low error", "high error"])
def test_a_table_policy_goes_where_the_expected_reward_and_the_entropy_are_largest(reward: Reward) -> None:
    objective, temperature = DrawnOrder(PPOConfig(value_coef=0.0), reward=reward), 0.3
    logits = torch.zeros(TOKENS, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.98)

    def aim(p: Tensor) -> Tensor:
        return SIGN[reward] * (chance(p) * ERROR.double()).sum() - temperature * (p * p.log()).sum()

    for _ in range(200):
        log_prob = torch.log_softmax(logits, 0)[None]
        told = rollouts(objective, log_prob)
        for _ in range(3):
            log_prob = torch.log_softmax(logits, 0)[None]
            loss, _ = objective.loss(estimate(log_prob), told, temperature=temperature)
            optimizer.zero_grad()
            (chance(told.log_prob[0].exp()) * loss).sum().backward()
            optimizer.step()
        schedule.step()
    best = torch.zeros(TOKENS, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([best], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        descent.zero_grad()
        loss = -aim(best.softmax(0))
        loss.backward()
        return loss

    descent.step(closure)
    # The rate has fallen to 1e-3, which bounds what is left of Adam's circling.
    assert torch.allclose(logits.softmax(0).double(), best.softmax(0), atol=2e-3)
    assert best.softmax(0).max() > 0.3  # far from uniform


def test_ratios_are_clipped_pick_by_pick() -> None:
    objective = DrawnOrder(PPOConfig(value_coef=0.0), reward="high error")
    old, new = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log(), torch.tensor([[0.6, 0.2, 0.1, 0.1]]).log()
    told = rollouts(objective, old, clip_value=0.5)
    loss, stats = objective.loss(estimate(new), told, temperature=0.0)
    # The second order is (0, 2): ratios .6 / .4 and (.1 / .4) / (.2 / .6), that is 1.5 and .75; A is positive.
    advantage = ERROR[1].item() - 0.5
    assert ORDERS[1].tolist() == [0, 2]
    assert advantage > 0
    assert loss[1].item() == pytest.approx(-(1.2 + 0.75) * advantage, rel=1e-5)
    assert stats["clipfrac"][1].item() == 1.0
    assert stats["binding_fraction"][1].item() == 0.5


def test_errors_are_in_units_of_the_mean_over_all_workers() -> None:
    objective = DrawnOrder(PPOConfig(), reward="low error")
    gathered = [
        [replace(rollouts(objective, LOGITS.log_softmax(0)[None]), clip_error=torch.tensor([1.0, 2.0]))],
        [],
        [replace(rollouts(objective, LOGITS.log_softmax(0)[None]), clip_error=torch.tensor([4.0]))],
    ]
    gathered = [[replace(r, clip_value=torch.full((len(r.clip_error),), 0.75)) for r in s] for s in gathered]  # type: ignore[arg-type]
    first, empty, last = objective.prepare(gathered, of_all_workers)
    assert empty == []
    unit = (1 + 2 + 4 + 5) / 5
    assert first[0].clip_error is not None
    assert first[0].clip_error.tolist() == pytest.approx([1 / unit, 2 / unit])
    assert first[0].advantage is not None
    assert first[0].advantage.tolist() == [[pytest.approx(0.75 - 1 / unit)], [pytest.approx(0.75 - 2 / unit)]]
    assert last[0].advantage is not None
    assert last[0].advantage.tolist() == [[pytest.approx(0.75 - 4 / unit)]]


def test_clips_without_error_and_workers_without_clips_stay_finite() -> None:
    objective = DrawnOrder(PPOConfig(), reward="low error")
    told = replace(rollouts(objective, LOGITS.log_softmax(0)[None]), clip_error=torch.zeros(len(ORDERS)))
    ((prepared,),) = objective.prepare([[told]], lambda total, *, count: float(total) / max(count, 1))
    assert prepared.clip_error is not None
    assert prepared.clip_error.tolist() == [0.0] * len(ORDERS)
    assert objective.prepare([[]], lambda total, *, count: 0.0) == [[]]


def test_both_critics_learn_each_its_own() -> None:
    objective = DrawnOrder(PPOConfig(), reward="low error")
    told = rollouts(objective, LOGITS.log_softmax(0)[None])
    said = estimate(LOGITS.log_softmax(0)[None], clip_value=0.4)
    loss, stats = objective.value_loss(said, told)
    assert torch.equal(stats["value_loss"], critic_loss(said.value, told))  # explained variance counts this alone
    assert torch.allclose(stats["clip_value_loss"], (0.4 - ERROR).square())
    assert torch.allclose(loss, stats["value_loss"] + stats["clip_value_loss"])


def test_no_gradient_passes_through_the_advantage() -> None:
    objective = DrawnOrder(PPOConfig(), reward="low error")
    expected = torch.ones(len(ORDERS), requires_grad=True)
    told = rollouts(objective, LOGITS.log_softmax(0)[None])
    credited = objective.credit(told, Estimate(told.log_prob, torch.ones(len(ORDERS), TOKENS), expected))
    ((prepared,),) = objective.prepare([[credited]], as_it_is)
    assert prepared.advantage is not None
    assert not prepared.advantage.requires_grad


def test_a_scorer_without_a_critic_of_whole_clips_is_refused() -> None:
    objective = DrawnOrder(PPOConfig(), reward="low error")
    told = rollouts(objective, LOGITS.log_softmax(0)[None])
    with pytest.raises(ValueError, match="critic of whole clips"):
        objective.value_loss(Estimate(told.log_prob, torch.ones(len(ORDERS), TOKENS)), told)
