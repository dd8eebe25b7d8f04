"""The two learned scorers: how they start, their precision, and what they share with the autoencoder."""

from collections.abc import Callable

import pytest
import torch

from tats_ray.geometry import TokenGrid
from tats_ray.masking.adamae import AdaMAEConfig, AdaMAEScorer
from tats_ray.masking.tats import TATSConfig, TATSScorer
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.rl.ppo import PPOConfig

PIXELS = 96


def sampler(grid: TokenGrid) -> TATSScorer:
    torch.manual_seed(0)
    return TATSScorer(TATSConfig(embed_dim=8, num_heads=2), grid=grid, patch_pixels=PIXELS)


def patches(grid: TokenGrid, batch: int = 3) -> torch.Tensor:
    noise = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, grid.num_tokens, PIXELS), dtype=torch.uint8, generator=noise)


def test_tats_starts_with_a_uniform_policy_and_a_critic_of_one(grid: TokenGrid) -> None:
    scores = sampler(grid)(patches(grid))
    assert scores.value is not None
    assert torch.equal(scores.logits, torch.zeros(3, grid.num_tokens))
    assert torch.equal(scores.value, torch.ones(3, grid.num_tokens))


def test_tats_scores_depend_on_pixels_and_place_once_its_heads_do(grid: TokenGrid) -> None:
    scorer = sampler(grid)
    for head in (scorer.actor, scorer.critic):
        torch.nn.init.normal_(head.weight)
    torch.nn.init.normal_(scorer.positions)
    scores = scorer(patches(grid))
    assert scores.value is not None
    for output in (scores.logits, scores.value):
        assert output.shape == (3, grid.num_tokens)
        assert output.std(0).min() > 0
    alike = scorer(torch.full_like(patches(grid), 7))
    assert alike.logits[0].std() > 0.01


def test_scores_are_float32_under_autocast(grid: TokenGrid) -> None:
    scorer = sampler(grid)
    torch.nn.init.normal_(scorer.actor.weight)
    adamae = AdaMAEScorer(AdaMAEConfig(num_heads=2), grid=grid, dim=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = scorer(patches(grid))
        joint = adamae(torch.randn(3, grid.num_tokens, 8, dtype=torch.bfloat16))
        assert scores.value is not None
        for output in (scores.logits, scores.value, scores.log_prob, joint.logits, joint.log_prob):
            assert output.dtype == torch.float32
    # Heads in bfloat16 would round their outputs to eight bits.
    assert not torch.equal(scores.logits, scores.logits.bfloat16().float())


def test_tats_shares_no_parameter_with_the_autoencoder(
    make_method: Callable[..., MaskedAutoencoding], tats: TATSConfig
) -> None:
    modules = make_method(tats).modules()
    autoencoder, scorer = ({id(p) for p in modules[name].parameters()} for name in ("autoencoder", "tats"))
    assert autoencoder
    assert scorer
    assert not autoencoder & scorer


@pytest.mark.parametrize("kind", ["tats", "adamae"])
def test_widths_that_heads_do_not_divide_are_refused(grid: TokenGrid, kind: str) -> None:
    build: dict[str, Callable[[], object]] = {
        "tats": lambda: TATSScorer(TATSConfig(embed_dim=8, num_heads=3), grid=grid, patch_pixels=PIXELS),
        "adamae": lambda: AdaMAEScorer(AdaMAEConfig(num_heads=3), grid=grid, dim=8),
    }
    with pytest.raises(ValueError, match=r"masking\.visible\.\w+ must .* got") as refused:
        build[kind]()
    assert "8" in str(refused.value)
    assert "3" in str(refused.value)


def test_adamae_starts_blind_to_place(grid: TokenGrid) -> None:
    scorer = AdaMAEScorer(AdaMAEConfig(num_heads=2), grid=grid, dim=8).eval()
    same = torch.randn(1, 1, 8).expand(1, grid.num_tokens, 8)
    assert torch.allclose(scorer(same).log_prob.exp(), torch.tensor(1 / grid.num_tokens))
    assert scorer(same).value is None


def test_the_default_sampler_is_the_measured_one() -> None:
    config = PPOConfig()
    assert (config.rollout_steps, config.update_epochs, config.clip_eps) == (4, 3, 0.2)
    assert (config.temperature, config.learning_rate, config.max_grad_norm) == (1.0, 1.5e-3, 0.5)
