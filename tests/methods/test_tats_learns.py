"""TATS finds what moves, beside still things of the same look, when an oracle stands in for the autoencoder's errors.

The oracle's errors are those of an autoencoder that has learnt to copy what stands still: background is easy where its
site is visible at another time and hard elsewhere, movers are hard always, still sprites about as hard as the mean.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tats_ray.data.decode import Crop
from tats_ray.data.synthetic import SyntheticConfig, draw_clip, token_shares
from tats_ray.geometry import TokenGrid
from tats_ray.masking.adamae import AdaMAEConfig, AdaMAEScorer
from tats_ray.masking.draws import exponential_clocks
from tats_ray.masking.motion import lift
from tats_ray.masking.plan import MaskPlan
from tats_ray.masking.planner import MaskPlanner, PolicyRule
from tats_ray.masking.tats import TATSConfig, TATSScorer
from tats_ray.methods.averages import Averages
from tats_ray.methods.ppo_update import PPOUpdate
from tats_ray.methods.sampler_updates import JointPolicyGradient, NoUpdate, SamplerUpdate
from tats_ray.nn.patches import TubeletEmbed, patchify
from tats_ray.rl.ppo import PPOConfig
from tats_ray.training.context import LocalContext
from tats_ray.training.optim import constant_trainable
from tats_ray.training.stepper import GradientStepper

SIDE, FRAMES, STRIDE, PATCH = 48, 8, 3, 8
GRID = TokenGrid.of(num_frames=FRAMES, crop_size=SIDE, tubelet_size=2, patch_size=PATCH)
PIXELS, DIM, BATCH = 2 * PATCH * PATCH * 3, 32, 16
CPU = torch.device("cpu")
PLANNER = MaskPlanner(PolicyRule(GRID, 0.85), GRID)


@dataclass(frozen=True)
class Clips:
    """Patches, and the shares of every token that movers and still sprites cover."""

    patches: Tensor  # uint8 [clips, tokens, pixels]
    mover: Tensor  # [clips, tokens]
    twin: Tensor  # [clips, tokens]


def make_clips(count: int, *, seed: int) -> Clips:
    config = SyntheticConfig.model_validate({"size": SIDE, "frames": FRAMES * STRIDE})
    frames = np.arange(FRAMES) * STRIDE
    crop = Crop(x=0, y=0, width=SIDE, height=SIDE)
    videos, shares = [], []
    for number in range(count):
        video, tracks = draw_clip(np.random.default_rng([seed, number]), config)
        videos.append(video[frames])
        shares.append(token_shares(tracks, frames=frames, crop=crop, flipped=False, grid=GRID))
    mover, twin = (torch.from_numpy(np.stack(share)) for share in zip(*shares, strict=True))
    return Clips(patchify(torch.from_numpy(np.stack(videos)), GRID), mover, twin)


@pytest.fixture(scope="module")
def seen() -> Clips:
    return make_clips(256, seed=0)


@pytest.fixture(scope="module")
def unseen() -> Clips:
    return make_clips(64, seed=1)


def oracle(plan: MaskPlan, clips: Clips, rows: Tensor, noise: torch.Generator) -> Tensor:
    """Errors of the target tokens, ``[batch, target]``."""
    covered = torch.zeros(len(rows), GRID.slot_tokens).scatter_(1, plan.visible_idx % GRID.slot_tokens, 1.0)
    background = 1.3 - 0.9 * covered.gather(1, plan.target_idx % GRID.slot_tokens)
    mover, twin = (share[rows].gather(1, plan.target_idx) for share in (clips.mover, clips.twin))
    error = 1.6 * mover + 1.07 * twin + (1 - mover - twin) * background
    return (error + 0.1 * torch.randn(error.shape, generator=noise)).clamp_min(0.05)


def learn(update: SamplerUpdate, module: nn.Module, name: str, clips: Clips, *, steps: int, seed: int) -> None:
    """Run the sampler's side of ``steps`` training steps."""
    trainable = constant_trainable(module, learning_rate=3e-3, max_grad_norm=0.5)
    stepper = GradientStepper({name: trainable}, LocalContext(CPU), precision="fp32", max_skipped_steps=0)
    noise, averages = torch.Generator().manual_seed(seed), Averages()
    for step in range(steps):
        rows = torch.randint(len(clips.patches), (BATCH,), generator=noise)
        patches = clips.patches[rows]
        scores = update.score(patches)
        plan = PLANNER.plan(scores, exponential_clocks((BATCH, GRID.num_tokens), seed=seed, step=step, device=CPU))
        error = oracle(plan, clips, rows, noise)
        joint = update.joint_loss(plan, scores, error)
        if joint is not None:
            stepper.accumulate(name, joint.sum())
            stepper.step(name, clips=BATCH)
        update.collect(patches, plan, scores, error)
        update.improve(stepper, averages)


@torch.no_grad()
def lifts(update: SamplerUpdate, clips: Clips, *, draws: int) -> tuple[float, float]:
    """How many times more of the movers and of the twins is drawn than their areas would have it."""
    scores = update.score(clips.patches)
    drawn = torch.zeros(clips.mover.shape)
    for step in range(draws):
        clocks = exponential_clocks((len(drawn), GRID.num_tokens), seed=99, step=step, device=CPU)
        visible_idx = PLANNER.plan(scores, clocks).visible_idx
        drawn.scatter_add_(1, visible_idx, torch.ones(visible_idx.shape))
    drawn /= drawn.sum(1, keepdim=True)
    known = [(share, share.sum(1) > 0) for share in (clips.mover, clips.twin)]
    mover, twin = (float(lift(drawn[some], share[some]).mean()) for share, some in known)
    return mover, twin


def test_tats_draws_movers_and_leaves_their_still_twins(seen: Clips, unseen: Clips, record_property) -> None:
    torch.manual_seed(0)
    ppo = PPOConfig(temperature=0.3, learning_rate=3e-3)
    config = TATSConfig(embed_dim=DIM, num_heads=2, ppo=ppo)
    scorer = TATSScorer(config, grid=GRID, patch_pixels=PIXELS)
    update = PPOUpdate(scorer, config, total_steps=1, seed=0)
    update.load_state_dict({**update.state_dict(), "stage": "policy"})
    assert lifts(update, unseen, draws=100) == pytest.approx((1, 1), abs=0.05)
    learn(update, scorer, "sampler", seen, steps=280, seed=0)
    mover, twin = lifts(update, unseen, draws=100)
    record_property("lift_movers", mover)
    record_property("lift_twins", twin)
    print(f"TATS: lift of movers {mover:.2f}, of twins {twin:.2f}")  # noqa: T201
    assert mover > 1.3
    assert mover > twin + 0.2


def test_adamae_leans_towards_movers(seen: Clips, unseen: Clips, record_property) -> None:
    torch.manual_seed(0)
    scorer = AdaMAEScorer(AdaMAEConfig(num_heads=2), grid=GRID, dim=DIM)
    embed = TubeletEmbed(PIXELS, DIM)
    update = JointPolicyGradient(scorer, embed, loss_weight=1.0)
    both = nn.ModuleDict({"scorer": scorer, "embed": embed})
    learn(update, both, "autoencoder", seen, steps=280, seed=0)
    scorer.eval()
    mover, twin = lifts(update, unseen, draws=100)
    record_property("lift_movers", mover)
    record_property("lift_twins", twin)
    print(f"AdaMAE: lift of movers {mover:.2f}, of twins {twin:.2f}")  # noqa: T201
    assert mover > 1


def test_random_draws_have_no_preference(unseen: Clips, record_property) -> None:
    mover, twin = lifts(NoUpdate(), unseen, draws=2000)
    record_property("lift_movers", mover)
    record_property("lift_twins", twin)
    print(f"random: lift of movers {mover:.3f}, of twins {twin:.3f}")  # noqa: T201
    # 64 clips x 2,000 draws of 21 tokens: a standard error of about 0.003 for areas of a tenth.
    assert mover == pytest.approx(1, abs=0.02)
    assert twin == pytest.approx(1, abs=0.02)
