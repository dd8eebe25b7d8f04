"""Every pair of visible rule and target rule trains or is refused with the reason; what partial decoding changes."""

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid
from tats_ray.masking.adamae import AdaMAEConfig
from tats_ray.masking.all_hidden import AllHiddenConfig
from tats_ray.masking.draws import exponential_clocks
from tats_ray.masking.embedding_distance import EmbeddingDistanceConfig
from tats_ray.masking.fixed import RandomConfig, TubeConfig
from tats_ray.masking.frame_difference import FrameDifferenceConfig
from tats_ray.masking.importance import ChangeConfig, NoImportanceConfig
from tats_ray.masking.important import ImportantConfig
from tats_ray.masking.motion import frame_difference
from tats_ray.masking.oracle import OracleConfig
from tats_ray.masking.plan import MaskPlan
from tats_ray.masking.pool import PoolConfig, PoolRestConfig
from tats_ray.masking.random_share import RandomShareConfig
from tats_ray.masking.running_cell import RunningCellConfig
from tats_ray.masking.targets import Mode
from tats_ray.masking.tats import TATSConfig
from tats_ray.masking.uniform_slices import UniformSlicesConfig
from tats_ray.methods.averages import Averages
from tats_ray.methods.base import HeldOut
from tats_ray.methods.build import (
    ImportanceConfig,
    MaskingConfig,
    ModelConfig,
    TargetConfig,
    VisibleConfig,
    build_method,
    training_flops,
)
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.methods.ppo_update import PPOUpdate
from tats_ray.methods.reconstruction import token_error, weighted_mean
from tats_ray.nn.patches import patchify
from tats_ray.rl.policy_gradient import hidden_token_loss
from tats_ray.rl.ppo import PPOConfig
from tats_ray.rl.rollout import hiding_weight
from tats_ray.tracking.overlays import show_tokens
from tats_ray.training.pictures import token_rows
from tats_ray.training.stepper import GradientStepper

Batches = Callable[..., ClipBatch]
Steppers = Callable[..., GradientStepper]
Methods = Callable[[MaskingConfig], MaskedAutoencoding]

TATS = TATSConfig(embed_dim=8, num_heads=2, ppo=PPOConfig(rollout_steps=1, update_epochs=2))
VISIBLE: tuple[VisibleConfig, ...] = (
    RandomConfig(),
    TubeConfig(),
    FrameDifferenceConfig(),
    OracleConfig(),
    PoolConfig(share=0.5),
    AdaMAEConfig(num_heads=2),
    TATS,
    TATS.model_copy(update={"window_frames": 4, "objective": "surrogate"}),
    TATS.model_copy(update={"window_frames": 2, "objective": "order-high-error"}),
)
TARGET: tuple[TargetConfig, ...] = (
    AllHiddenConfig(),
    RunningCellConfig(),
    UniformSlicesConfig(every=3, share=0.3),
    UniformSlicesConfig(every=3, share=0.3, mode="overlap"),
    RandomShareConfig(share=0.3),
    RandomShareConfig(share=0.3, mode="overlap"),
    ImportantConfig(top_share=0.2, random_share=0.1),
    ImportantConfig(top_share=0.2, random_share=0.1, mode="overlap"),
    ImportantConfig(top_share=0.3, random_share=0),
    PoolRestConfig(),
)
RANKED = (PoolConfig, ImportantConfig, PoolRestConfig)
LEARNED = (AdaMAEConfig, TATSConfig)


def reason(visible: VisibleConfig, target: TargetConfig) -> str | None:
    """Why a pair is refused; None for a legal one."""
    if isinstance(target, PoolRestConfig) and not isinstance(visible, PoolConfig):
        return f"masking.visible.kind={visible.kind} has none; take masking.visible.kind=pool"
    if isinstance(target, ImportantConfig) and target.random_share == 0 and isinstance(visible, LEARNED):
        return "random_share must be above 0"
    return None


def masking(visible: VisibleConfig, target: TargetConfig, importance: ImportanceConfig | None = None) -> MaskingConfig:
    ranked = isinstance(visible, RANKED) or isinstance(target, RANKED)
    importance = importance or (ChangeConfig() if ranked else NoImportanceConfig())
    return MaskingConfig(mask_ratio=0.75, visible=visible, target=target, importance=importance)


@pytest.fixture
def method_of(grid: TokenGrid, model: ModelConfig) -> Methods:
    def make(masking: MaskingConfig) -> MaskedAutoencoding:
        torch.manual_seed(0)
        method = build_method(model, masking, grid=grid, total_steps=100, global_batch=8, seed=0)
        for _ in range(2):
            method.after_validation({"validation/error_spread": 1.0, "validation/explained_variance": 1.0}, step=100)
        return method

    return make


def told(batch: ClipBatch, grid: TokenGrid) -> ClipBatch:
    """With ground truth, which one rule asks for."""
    truth = torch.rand(len(batch), grid.num_tokens, generator=torch.Generator().manual_seed(0))
    return ClipBatch(batch.video, batch.row, truth)


@pytest.mark.parametrize(
    ("visible", "target"),
    list(product(VISIBLE, TARGET)),
    ids=lambda config: f"{config.kind}-{getattr(config, 'mode', getattr(config, 'objective', ''))}".strip("-"),
)
def test_every_pair_trains_or_is_refused_with_the_reason(
    visible: VisibleConfig,
    target: TargetConfig,
    method_of: Methods,
    make_stepper: Steppers,
    make_batch: Batches,
    grid: TokenGrid,
    model: ModelConfig,
) -> None:
    refused = reason(visible, target)
    if refused is not None:
        with pytest.raises(ValidationError, match=refused):
            masking(visible, target)
        return
    method = method_of(masking(visible, target))
    stepper, averages = make_stepper(method), Averages()
    before = {
        f"{name}.{key}": value.clone()
        for name, module in method.modules().items()
        for key, value in module.named_parameters()
    }
    for step in range(2):
        method.train_step([told(make_batch(range(8)), grid)], step=step, stepper=stepper, averages=averages)
    moved = set()
    for name, module in method.modules().items():
        for key, value in module.named_parameters():
            assert value.isfinite().all()
            if not torch.equal(value, before[f"{name}.{key}"]):
                moved.add(name)
    assert moved == set(method.modules())
    total, count = averages.take()["reconstruction/loss"]
    assert 0.5 < total / count < 3
    assert stepper.skipped_steps == 0
    assert all(flops >= 0 for flops in training_flops(model, masking(visible, target), grid=grid).values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": ImportantConfig()}, r"importance.kind must say what ranks the tokens for important, got none"),
        (
            {"visible": PoolConfig(), "target": PoolRestConfig()},
            r"importance.kind must say what ranks the tokens for pool and pool-rest, got none",
        ),
        (
            {"visible": RandomConfig(), "importance": ChangeConfig()},
            r"frame-difference has no effect .* set it to none",
        ),
    ],
)
def test_importance_is_asked_for_where_it_counts_and_nowhere_else(settings: Mapping[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MaskingConfig.model_validate(settings)


def test_budgets_are_checked_when_a_method_is_built(method_of: Methods) -> None:
    with pytest.raises(ValueError, match=r"masking.target takes 51 of 48 hidden tokens"):
        method_of(masking(RandomConfig(), RandomShareConfig(share=0.8)))
    with pytest.raises(ValueError, match=r"window_frames must divide the clip's 8 frames"):
        method_of(masking(TATS.model_copy(update={"window_frames": 3}), AllHiddenConfig()))


def test_a_budget_of_all_hidden_tokens_is_the_plain_autoencoder(
    method_of: Methods, make_stepper: Steppers, make_batch: Batches
) -> None:
    losses = []
    for target in (AllHiddenConfig(), RandomShareConfig(share=0.75)):
        method, averages = method_of(masking(TubeConfig(), target)), Averages()
        method.train_step([make_batch(range(8))], step=0, stepper=make_stepper(method), averages=averages)
        losses.append(averages.take()["reconstruction/loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_targets_that_are_visible_do_not_count(method_of: Methods, make_batch: Batches, grid: TokenGrid) -> None:
    method = method_of(masking(RandomConfig(), RunningCellConfig()))
    batch = make_batch(range(8))
    patches = patchify(batch.video, grid)
    plan: MaskPlan = method.plan(batch, patches, None, step=0)
    seen = plan.target_weight == 0
    assert seen.any()
    wrong = torch.where(seen[:, :, None], 1e6, 0.0)
    prediction = method.predict(patches, plan.visible_idx, plan.target_idx).detach()
    errors = [token_error(prediction + shift, prediction * 0) for shift in (torch.zeros(()), wrong)]
    losses = [weighted_mean(error, plan.target_weight) for error in errors]
    assert torch.equal(*losses)


def test_validation_and_pictures_predict_every_hidden_token_once(
    method_of: Methods, make_batch: Batches, grid: TokenGrid
) -> None:
    clocks = exponential_clocks((4, grid.num_tokens), seed=0, step=-1, device=torch.device("cpu"))
    held_out = HeldOut(make_batch(range(4)), clocks, truth={})
    method = method_of(masking(RandomConfig(), ImportantConfig(top_share=0.2, random_share=0.1)))
    asked: list[torch.Tensor] = []
    predict = method.predict
    method.predict = lambda patches, visible_idx, target_idx: (
        asked.append(target_idx) or predict(patches, visible_idx, target_idx)
    )
    method.snapshot(held_out)
    shot = torch.cat(asked, dim=1)
    assert [len(part[0]) for part in asked] == [16, 16, 16]  # at most the 12 + 6 of a training step
    visible_idx = method.planner.visible(None, clocks[:1], None)[0]
    every = torch.cat([shot, visible_idx], 1).sort(1).values
    assert torch.equal(every[0], torch.arange(grid.num_tokens))
    assert not torch.equal(shot, shot.sort(1).values)  # neighbours do not come together
    method.validate(held_out, averages=Averages())
    assert {part.shape for part in asked[3:]} >= {(4, 16)}


def test_the_embedding_ranks_as_it_is_trained_and_gets_no_gradient_from_it(
    method_of: Methods, make_stepper: Steppers, make_batch: Batches, grid: TokenGrid, model: ModelConfig
) -> None:
    everest = masking(PoolConfig(share=0.5), PoolRestConfig(), EmbeddingDistanceConfig())
    method = method_of(everest)
    batch = make_batch(range(8))
    patches = patchify(batch.video, grid)
    assert method.importance is not None
    first = method.importance(batch, patches)
    assert not first.requires_grad
    method.train_step([batch], step=0, stepper=make_stepper(method), averages=Averages())
    assert not torch.equal(method.importance(batch, patches), first)
    assert training_flops(model, everest, grid=grid)["importance"] == 2 * 64 * 96 * 16


def test_targets_are_drawn_with_noise_of_their_own(method_of: Methods, make_batch: Batches, grid: TokenGrid) -> None:
    """With the noise of the visible tokens, the earliest 19 of all tokens would hold the earliest 16."""
    method, batch = (
        method_of(masking(RandomConfig(), RandomShareConfig(share=0.3, mode="overlap"))),
        make_batch(range(8)),
    )
    plan = method.plan(batch, patchify(batch.video, grid), None, step=0)
    assert plan.target_weight[0].sum() > 8  # of 19; 14 are expected, and 3 with the same noise


@pytest.mark.parametrize("mode", ["disjoint", "overlap"])
def test_samplers_are_told_how_probably_each_target_was_decoded(
    mode: Mode, method_of: Methods, make_stepper: Steppers, make_batch: Batches, grid: TokenGrid
) -> None:
    target = ImportantConfig(top_share=0.2, random_share=0.1, mode=mode)
    tats = TATS.model_copy(update={"ppo": PPOConfig(rollout_steps=2)})
    method, batch = method_of(masking(tats, target)), make_batch(range(8))
    patches = patchify(batch.video, grid)
    plan = method.plan(batch, patches, method.update.score(patches), step=0)
    errors: list[torch.Tensor] = []
    collect = method.update.collect
    method.update.collect = lambda patches, plan, scores, error: (  # type: ignore[method-assign]
        errors.append(error) or collect(patches, plan, scores, error)
    )
    method.train_step([batch], step=0, stepper=make_stepper(method), averages=Averages())
    assert isinstance(method.update, PPOUpdate)
    ((told,),) = method.update._gathered[:1]
    assert plan.draw is not None
    chance = torch.ones(8, 18)
    random = ~as_important(batch, patches, plan, method)
    chance[random] = 6 / (64 - 12 - (16 if mode == "disjoint" else 0))
    decode_weight = plan.target_weight / chance
    hiding = hiding_weight(plan.draw.log_prob, plan.draw.threshold).gather(1, plan.target_idx)
    assert torch.equal(told.target_idx, plan.target_idx)
    assert torch.allclose(told.weight, hiding * decode_weight)
    assert told.clip_error is not None
    stratified = (errors[0] * decode_weight).sum(1) / decode_weight.sum(1)
    assert torch.allclose(told.clip_error, stratified)
    assert torch.allclose(told.error, errors[0] / stratified[:, None])
    adamae = method_of(masking(AdaMAEConfig(num_heads=2, loss_weight=0.5), target))
    scores = adamae.update.score(patches)
    assert scores is not None
    joint = adamae.update.joint_loss(plan, scores, errors[0])
    assert joint is not None
    wanted = hidden_token_loss(scores.log_prob, plan.target_idx, errors[0], decode_weight)
    assert torch.allclose(joint, 0.5 * wanted)


@pytest.mark.parametrize(("log_cap", "share"), [(0.05, 1), (0.8, 0)])
def test_weights_are_at_their_cap_by_hiding_alone(
    log_cap: float, share: int, method_of: Methods, make_stepper: Steppers, make_batch: Batches
) -> None:
    """48 of 64 tokens are hidden by uniform draws: each weighs exp(0.29), not 2.5 times that for being decoded."""
    tats = TATS.model_copy(update={"reward": TATS.reward.model_copy(update={"log_weight_cap": log_cap})})
    method, averages = method_of(masking(tats, RandomShareConfig(share=0.3))), Averages()
    method.train_step([make_batch(range(8))], step=0, stepper=make_stepper(method), averages=averages)
    total, count = averages.take()["sampler/weight_cap_share"]
    assert count == 8 * 19
    assert total == share * count


def as_important(batch: ClipBatch, patches: torch.Tensor, plan: MaskPlan, method: MaskedAutoencoding) -> torch.Tensor:
    """Which targets are among the most important tokens that a rule could take, ranked by hand."""
    assert method.importance is not None
    rank = method.importance(batch, patches)
    if (plan.target_weight == 1).all():
        rank = rank.scatter(1, plan.visible_idx, -1.0)
    return rank.gather(1, plan.target_idx) >= rank.sort(1, descending=True).values[:, 11:12]


def test_a_picture_shows_which_tokens_are_predicted(method_of: Methods, make_batch: Batches, grid: TokenGrid) -> None:
    batch = make_batch(range(2))
    held_out = HeldOut(batch, exponential_clocks((2, grid.num_tokens), seed=0, step=0, device=torch.device("cpu")), {})
    assert method_of(masking(RandomConfig(), AllHiddenConfig())).snapshot(held_out).target_idx is None
    every = method_of(masking(RandomConfig(), ImportantConfig(top_share=0.2, random_share=0.3, mode="overlap")))
    shot = every.snapshot(held_out)
    assert shot.target_idx is not None
    top, drawn = int(0.2 * grid.num_tokens), int(0.3 * grid.num_tokens)
    most = frame_difference(batch.video[:1], grid)[0].argsort(descending=True)[:top]
    assert set(most.tolist()) <= set(shot.target_idx.tolist())
    assert len(set(shot.target_idx.tolist())) == top + drawn
    rows = token_rows(shot)
    assert list(rows)[-1] == "predicted tokens"
    np.testing.assert_array_equal(rows["predicted tokens"], show_tokens(shot.video, shot.target_idx, grid))
