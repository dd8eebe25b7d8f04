"""The withheld-token bandit against all draws of two out of five tokens, written out."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from tats_ray.masking.draws import draw_visible
from tats_ray.masking.plan import hidden_tokens
from tats_ray.rl.policy_gradient import hidden_token_loss
from tats_ray.rl.ppo import PPOConfig, ppo_loss
from tats_ray.rl.rollout import Rollout, hiding_weight, relative_error, withheld_advantage

TOKENS, VISIBLE, DRAWS = 5, 2, 1_000_000
STANDARD_ERRORS = 4.0  # a right estimate of five means misses this in 1 of 3,000 seeds; the seeds are fixed
CRITICS = ("zero", "one", "truth", "random")


def _table() -> Tensor:
    """Errors ``[a, b, token]`` when tokens a and b are visible: symmetric in a and b, otherwise unrelated."""
    table = 0.2 + 2 * torch.rand(TOKENS, TOKENS, TOKENS, generator=torch.Generator().manual_seed(3))
    return torch.maximum(table, table.transpose(0, 1))


# A standard deviation of 0.3: with a probability near 0.7 the weight of a hidden token has no finite variance.
LOG_PROB = torch.log_softmax(0.3 * torch.randn(1, TOKENS, generator=torch.Generator().manual_seed(1)), dim=1)
ERRORS = _table()


def _withheld_errors() -> Tensor:
    """q: a token's mean error over the ordered draws of two of the four other tokens."""
    p = LOG_PROB[0].double().exp().tolist()
    mean = [
        sum(
            p[a] / (1 - p[i]) * p[b] / (1 - p[i] - p[a]) * float(ERRORS[a, b, i])
            for a, b in permutations([j for j in range(TOKENS) if j != i], 2)
        )
        for i in range(TOKENS)
    ]
    return torch.tensor([mean])


TRUTH = _withheld_errors()


class Draws:
    """A million draws with their errors and weights; ``decoded`` is the chance that a hidden token is decoded."""

    def __init__(self, decoded: float = 1.0) -> None:
        noise = torch.Generator().manual_seed(0)
        self.log_prob = LOG_PROB.expand(DRAWS, -1)
        clocks = torch.empty(DRAWS, TOKENS).exponential_(generator=noise)
        draw = draw_visible(self.log_prob, clocks, count=VISIBLE)
        self.target_idx = hidden_tokens(draw.order, num_tokens=TOKENS)
        self.error = ERRORS[draw.order[:, 0], draw.order[:, 1]].gather(1, self.target_idx)
        kept = torch.rand(self.error.shape, generator=noise) < decoded
        weight = hiding_weight(self.log_prob, draw.threshold, log_cap=float("inf"))
        self.weight = weight.gather(1, self.target_idx) * kept / decoded

    def advantage(self, value: Tensor, *, error: Tensor | None = None) -> Tensor:
        return withheld_advantage(
            log_prob=self.log_prob,
            value=value.expand(DRAWS, -1),
            target_idx=self.target_idx,
            error=self.error if error is None else error,
            weight=self.weight,
        )

    def policy_gradients(self, advantage: Tensor) -> Tensor:
        """Each draw's gradient of the PPO loss with respect to the logits, without entropy, ``[draws, tokens]``."""
        rollout = Rollout(
            torch.zeros(0), self.log_prob, self.target_idx, self.error, self.weight.clamp_min(1e-6), advantage
        )
        logits = LOG_PROB.repeat(DRAWS, 1).requires_grad_()
        loss, _ = ppo_loss(
            log_prob=torch.log_softmax(logits, 1),
            value=torch.ones(DRAWS, TOKENS),
            rollout=rollout,
            temperature=0.0,
            config=PPOConfig(),
        )
        return torch.autograd.grad(loss.sum(), logits)[0].double()


@pytest.fixture(scope="module")
def draws() -> Draws:
    return Draws()


@pytest.fixture(scope="module")
def half_decoded() -> Draws:
    return Draws(decoded=0.5)


def critic(name: str) -> Tensor:
    random = 1 + 3 * torch.randn(1, TOKENS, generator=torch.Generator().manual_seed(7))
    return {"zero": torch.zeros(1, TOKENS), "one": torch.ones(1, TOKENS), "truth": TRUTH, "random": random}[
        name
    ].float()


def assert_mean(samples: Tensor, wanted: Tensor | float) -> None:
    """The mean over draws is as wanted, within the standard errors of a million draws."""
    samples = samples.double()
    standard_error = samples.std(0) / len(samples) ** 0.5
    gap = (samples.mean(0) - torch.as_tensor(wanted)).abs()
    assert (gap <= STANDARD_ERRORS * standard_error + 1e-6).all(), f"{gap / standard_error} standard errors off"


@pytest.mark.parametrize("name", CRITICS)
def test_the_advantage_is_unbiased_for_any_critic(draws: Draws, name: str) -> None:
    value = critic(name)
    baseline = (LOG_PROB.exp() * value).sum()
    assert_mean(draws.advantage(value), TRUTH[0] - baseline)


@pytest.mark.parametrize("name", CRITICS)
def test_the_advantage_is_unbiased_when_half_the_hidden_tokens_are_decoded(half_decoded: Draws, name: str) -> None:
    value = critic(name)
    assert_mean(half_decoded.advantage(value), TRUTH[0] - (LOG_PROB.exp() * value).sum())


@pytest.mark.parametrize("which", ["draws", "half_decoded"])
def test_the_weights_of_a_token_average_to_one(which: str, request: pytest.FixtureRequest) -> None:
    drawn: Draws = request.getfixturevalue(which)
    hidden = torch.zeros(DRAWS, TOKENS).scatter(1, drawn.target_idx, drawn.weight)
    assert_mean(hidden, 1.0)


def test_critics_change_the_variance_of_the_gradient_and_not_its_mean(draws: Draws) -> None:
    gradients = {name: draws.policy_gradients(draws.advantage(critic(name))) for name in ("zero", "truth", "random")}
    p = LOG_PROB[0].double().exp()
    expected = -p * (TRUTH[0] - (p * TRUTH[0]).sum())
    for gradient in gradients.values():
        assert_mean(gradient, expected)
    variance = {name: float(gradient.var(0).sum()) for name, gradient in gradients.items()}
    assert variance["truth"] < variance["zero"] < variance["random"]


def test_a_constant_error_gives_a_critic_of_one_no_gradient(draws: Draws) -> None:
    advantage = draws.advantage(critic("one"), error=torch.ones_like(draws.error))
    # Probabilities sum to 1 within float32 rounding.
    assert draws.policy_gradients(advantage).abs().max() < 1e-6


def test_a_constant_error_gives_a_critic_of_zero_no_expected_gradient(draws: Draws) -> None:
    advantage = draws.advantage(critic("zero"), error=torch.ones_like(draws.error))
    assert_mean(draws.policy_gradients(advantage), 0.0)


def test_a_constant_error_moves_adamae_all_the_same(draws: Draws) -> None:
    logits = LOG_PROB.clone().requires_grad_()
    log_prob = torch.log_softmax(logits, 1).expand(DRAWS, -1)
    hidden_token_loss(log_prob, draws.target_idx, torch.ones_like(draws.error)).mean().backward()
    assert logits.grad is not None
    assert logits.grad.norm() > 0.05  # a mean of a million draws; its standard error is below 0.001


def test_no_gradient_passes_through_the_advantage(draws: Draws) -> None:
    value = torch.ones(1, TOKENS, requires_grad=True)
    log_prob = LOG_PROB.clone().requires_grad_()
    advantage = withheld_advantage(
        log_prob=log_prob,
        value=value,
        target_idx=draws.target_idx[:1],
        error=draws.error[:1].clone().requires_grad_(),
        weight=draws.weight[:1],
    )
    assert not advantage.requires_grad


def test_advantage_by_hand() -> None:
    advantage = withheld_advantage(
        log_prob=torch.tensor([[0.5, 0.25, 0.25]]).log(),
        value=torch.tensor([[1.0, 2.0, 0.0]]),
        target_idx=torch.tensor([[1, 2]]),
        error=torch.tensor([[3.0, 0.5]]),
        weight=torch.tensor([[2.0, 4.0]]),
    )
    # Q = (1, 2 + 2 (3 - 2), 0 + 4 (.5 - 0)); the policy's mean of V is .5 + .5 + 0.
    assert advantage.tolist() == [[0.0, 3.0, 1.0]]


def test_the_weight_is_the_inverse_chance_and_capped() -> None:
    log_prob = torch.tensor([[0.25, 0.75]]).log()
    # exp(.25 * 2) and exp(.75 * 2); with a threshold of 20 the second exponent of 15 is capped at 3.
    assert hiding_weight(log_prob, torch.tensor([2.0])).tolist() == [pytest.approx([1.648721, 4.481689], rel=1e-5)]
    assert hiding_weight(log_prob, torch.tensor([20.0])).tolist() == [pytest.approx([20.085537, 20.085537], rel=1e-5)]


def test_relative_errors_are_in_units_of_the_mean_of_the_tokens_that_count() -> None:
    error = torch.tensor([[1.0, 3.0, 100.0]])
    assert relative_error(error, torch.tensor([[1.0, 1.0, 0.0]])).tolist() == [[0.5, 1.5, 50.0]]


def test_clips_without_any_error_have_no_relative_error() -> None:
    assert relative_error(torch.zeros(1, 3), torch.ones(1, 3)).tolist() == [[0.0, 0.0, 0.0]]
