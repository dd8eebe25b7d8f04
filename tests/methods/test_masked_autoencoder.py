"""One step of the whole: what learns from what, what the micro-batches may not change, and what the pictures show."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid
from tats_ray.masking.adamae import AdaMAEConfig
from tats_ray.masking.draws import exponential_clocks
from tats_ray.masking.fixed import RandomConfig, TubeConfig
from tats_ray.masking.frame_difference import FrameDifferenceConfig
from tats_ray.masking.tats import TATSConfig
from tats_ray.methods.averages import Averages
from tats_ray.methods.base import HeldOut
from tats_ray.methods.build import VisibleConfig
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding, site_coverage
from tats_ray.nn.patches import denormalize, normalized_patches, patchify, take_tokens, unpatchify
from tats_ray.training.stepper import GradientStepper

Batches = Callable[..., ClipBatch]
Methods = Callable[..., MaskedAutoencoding]
Steppers = Callable[..., GradientStepper]

# AdaMAE without its dropout, which would draw other noise for other micro-batches.
ADAMAE = AdaMAEConfig(num_heads=2, dropout=0.0, loss_weight=0.1)
KINDS: dict[str, VisibleConfig] = {
    "random": RandomConfig(),
    "tube": TubeConfig(),
    "frame-difference": FrameDifferenceConfig(),
    "adamae": ADAMAE,
}


@pytest.fixture(params=["random", "tube", "frame-difference", "adamae", "tats"])
def kind(request: pytest.FixtureRequest, tats: TATSConfig) -> VisibleConfig:
    return {**KINDS, "tats": tats}[request.param]


@pytest.fixture
def held_out(make_batch: Batches, grid: TokenGrid) -> HeldOut:
    clocks = exponential_clocks((4, grid.num_tokens), seed=0, step=-1, device=torch.device("cpu"))
    mover = torch.zeros(4, grid.num_tokens)
    mover[:2, :8] = 0.5  # the other two clips show none
    return HeldOut(batch=make_batch(range(4), seed=9), clocks=clocks, truth={"mover": mover})


def weights(method: MaskedAutoencoding) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, module in method.modules().items()
        for key, value in module.state_dict().items()
    }


def switch_on(method: MaskedAutoencoding) -> None:
    """Move a learned sampler to its last stage; the others have none."""
    for _ in range(2):
        method.after_validation({"validation/error_spread": 1.0, "validation/explained_variance": 1.0}, step=100)


def plain_descent(stepper: GradientStepper) -> None:
    """Step along the gradient: AdamW makes full steps of the rounding of a gradient that is zero, a key's bias."""
    for trainable in stepper.trainables.values():
        trainable.optimizer = torch.optim.SGD(trainable.parameters, lr=0.05)
        trainable.schedule = None


def run(method: MaskedAutoencoding, stepper: GradientStepper, batches: list[ClipBatch], *, steps: int = 2) -> Averages:
    averages = Averages()
    for step in range(steps):
        method.train_step(batches, step=step, stepper=stepper, averages=averages)
    return averages


def test_every_kind_trains(
    kind: VisibleConfig, make_method: Methods, make_stepper: Steppers, make_batch: Batches
) -> None:
    method = make_method(kind)
    switch_on(method)
    before, stepper = weights(method), make_stepper(method)
    measured = run(method, stepper, [make_batch(range(8))]).take()
    after = weights(method)
    assert not [name for name, value in after.items() if not value.isfinite().all()]
    for name in method.modules():
        assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith(f"{name}."))
    total, count = measured["reconstruction/loss"]
    assert count == 16
    assert 0.5 < total / count < 3  # targets of unit variance, predicted by an untrained network
    assert stepper.skipped_steps == 0
    assert method.at_rest


def test_a_batch_is_learnt_whatever_its_micro_batches(
    kind: VisibleConfig, make_method: Methods, make_stepper: Steppers, make_batch: Batches
) -> None:
    results = []
    for cuts in ([range(8)], [range(2), range(2, 4), range(4, 6), range(6, 8)], [range(3), [], range(3, 8)]):
        method = make_method(kind)
        switch_on(method)
        stepper = make_stepper(method)
        plain_descent(stepper)
        run(method, stepper, [make_batch(cut) for cut in cuts], steps=4)
        results.append(weights(method))
    whole, *parts = results
    for part in parts:
        for name, value in part.items():
            # Gradients are sums over clips, so only the order of float32 additions differs.
            assert torch.allclose(value, whole[name], atol=1e-6, rtol=0), name


def test_an_empty_share_changes_nothing(
    kind: VisibleConfig, make_method: Methods, make_stepper: Steppers, make_batch: Batches
) -> None:
    method = make_method(kind)
    switch_on(method)
    before, stepper = weights(method), make_stepper(method)
    run(method, stepper, [make_batch([]), make_batch([])], steps=4)
    assert all(torch.equal(before[name], value) for name, value in weights(method).items())
    assert stepper.skipped_steps == 0


@pytest.mark.parametrize("name", ["adamae", "tats"])
def test_only_adamaes_sampler_reaches_the_shared_embedding(
    name: str, make_method: Methods, tats: TATSConfig, make_batch: Batches, grid: TokenGrid
) -> None:
    method = make_method(ADAMAE if name == "adamae" else tats)
    switch_on(method)
    patches = patchify(make_batch(range(8)).video, grid)
    scores = method.update.score(patches)
    assert scores is not None
    plan = method.planner.plan(scores, torch.rand(8, grid.num_tokens))
    error = torch.rand(plan.target_idx.shape)
    term = method.update.joint_loss(plan, scores, error)
    if name == "tats":
        assert term is None
        assert not scores.logits.requires_grad
        return
    assert term is not None
    term.sum().backward()
    gradients = {key: p.grad is not None and p.grad.abs().sum() > 0 for key, p in method.autoencoder.named_parameters()}
    assert {key for key, moved in gradients.items() if moved} == {"encoder.embed.weight", "encoder.embed.bias"}


def test_error_is_measured_on_the_same_random_tokens_for_every_kind(
    make_method: Methods, tats: TATSConfig, held_out: HeldOut
) -> None:
    errors = []
    for visible in (RandomConfig(), tats):
        method = make_method(visible)
        switch_on(method)
        method.autoencoder.load_state_dict(make_method(RandomConfig()).autoencoder.state_dict())
        for scorer in set(method.modules()) - {"autoencoder"}:  # with preferences of its own
            torch.nn.init.normal_(method.modules()[scorer].get_parameter("actor.weight"))
        averages = Averages()
        method.validate(held_out, averages=averages)
        errors.append(averages.take()["validation/random_mask_error"])
    assert errors[0] == errors[1]


def test_validation_reports_what_the_switch_needs(make_method: Methods, tats: TATSConfig, held_out: HeldOut) -> None:
    averages = Averages()
    method = make_method(tats)
    before = weights(method)
    method.validate(held_out, averages=averages)
    measured = averages.take()
    assert measured["validation/error_spread"][1] == 4
    # A critic of one misses by exactly the variance around the mean, so it explains nothing.
    assert measured["validation/critic_error"] == pytest.approx(measured["validation/error_variance"])
    assert measured["sampler/mover_lift"] == pytest.approx((2.0, 2))  # uniform; two clips show movers
    assert measured["sampler/motion_lift"] == pytest.approx((4.0, 4))
    assert all(torch.equal(before[name], value) for name, value in weights(method).items())


def test_validation_is_repeatable(kind: VisibleConfig, make_method: Methods, held_out: HeldOut) -> None:
    if kind.kind == "adamae":
        kind = AdaMAEConfig(num_heads=2, dropout=0.5)
    method, results = make_method(kind), []
    for _ in range(2):
        averages = Averages()
        method.validate(held_out, averages=averages)
        results.append(averages.take())
    assert results[0] == results[1]


def test_visible_and_target_tokens_make_up_the_normalised_clip(
    make_method: Methods, tats: TATSConfig, make_batch: Batches, grid: TokenGrid
) -> None:
    video = make_batch(range(3)).video
    patches = patchify(video, grid)
    plan = make_method(tats).planner.plan(None, torch.rand(3, grid.num_tokens))
    every = torch.full(patches.shape, torch.nan)
    for idx in (plan.visible_idx, plan.target_idx):
        part = normalized_patches(take_tokens(patches, idx))
        every.scatter_(1, idx[:, :, None].expand_as(part), part)
    assert torch.equal(every, normalized_patches(patches))
    restored = unpatchify(denormalize(every, patches), grid, tubelet_size=2) * 255
    assert torch.equal(restored.round().to(torch.uint8), video)


def test_snapshot_keeps_visible_patches_and_shows_predictions(
    kind: VisibleConfig, make_method: Methods, held_out: HeldOut, grid: TokenGrid
) -> None:
    method = make_method(kind)
    switch_on(method)
    shot = method.snapshot(held_out)
    video, restored, alone = (
        patchify(torch.from_numpy(picture)[None], grid)[0] for picture in (shot.video, shot.restored, shot.prediction)
    )
    seen = torch.zeros(grid.num_tokens, dtype=torch.bool)
    seen[torch.from_numpy(shot.visible_idx)] = True
    assert seen.sum() == len(shot.visible_idx) == len(shot.random_idx) == method.planner.rule.count
    assert torch.equal(torch.from_numpy(shot.video), held_out.batch.video[0])
    assert torch.equal(restored[seen], video[seen])
    assert (restored[~seen] != video[~seen]).any(1).all()
    assert (alone[seen] == 0).all()
    if kind.kind in ("random", "tube"):
        assert shot.probability is None
    else:
        assert shot.probability is not None
        assert shot.probability.sum() == pytest.approx(1, abs=1e-5)


def test_a_perfect_prediction_restores_the_clip(make_method: Methods, held_out: HeldOut, grid: TokenGrid) -> None:
    method = make_method(RandomConfig())
    method.predict = lambda patches, _, target_idx: normalized_patches(take_tokens(patches, target_idx))
    assert np.array_equal(method.snapshot(held_out).restored, held_out.batch.video[0].numpy())


def test_modules_and_trainables_by_kind(kind: VisibleConfig, make_method: Methods) -> None:
    method = make_method(kind)
    modules, trainables = set(method.modules()), set(method.trainables())
    assert (modules, trainables) == {
        "random": ({"autoencoder"}, {"autoencoder"}),
        "tube": ({"autoencoder"}, {"autoencoder"}),
        "frame-difference": ({"autoencoder"}, {"autoencoder"}),
        "adamae": ({"autoencoder", "adamae"}, {"autoencoder"}),
        "tats": ({"autoencoder", "tats"}, {"autoencoder", "sampler"}),
    }[kind.kind]
    learning = {id(p) for module in method.trainables().values() for p in module.parameters()}
    assert learning == {id(p) for module in method.modules().values() for p in module.parameters()}


def test_site_coverage_by_hand() -> None:
    grid = TokenGrid(time=2, height=1, width=4)
    # Sites 0 and 1; site 0 in both slots.
    assert site_coverage(torch.tensor([[0, 1], [0, 4]]), grid).tolist() == [0.5, 0.25]
