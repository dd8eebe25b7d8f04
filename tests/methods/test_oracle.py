"""The oracle in a training step: what is drawn is what the truth of each clip says, in training and validation."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid
from tats_ray.masking.adamae import AdaMAEConfig
from tats_ray.masking.draws import exponential_clocks
from tats_ray.masking.fixed import RandomConfig, TubeConfig
from tats_ray.masking.frame_difference import FrameDifferenceConfig
from tats_ray.masking.oracle import OracleConfig
from tats_ray.masking.tats import TATSConfig
from tats_ray.methods.averages import Averages
from tats_ray.methods.base import HeldOut
from tats_ray.methods.build import MaskingConfig, truth_grid
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.training.stepper import GradientStepper

Batches = Callable[..., ClipBatch]
Methods = Callable[..., MaskedAutoencoding]
Steppers = Callable[..., GradientStepper]

STRONG = OracleConfig(lift=100.0)  # more than 64 tokens allow: in proportion to the truth, but for a thousandth


@pytest.fixture
def batch(make_batch: Batches, grid: TokenGrid) -> ClipBatch:
    """Each clip shows movers in 16 tokens of its own, as many as are visible."""
    truth = torch.zeros(8, grid.num_tokens)
    for row in range(8):
        truth[row, torch.randperm(grid.num_tokens, generator=torch.Generator().manual_seed(row))[:16]] = 0.5
    return replace(make_batch(range(8)), truth=truth)


def held_out_of(batch: ClipBatch, grid: TokenGrid) -> HeldOut:
    clocks = exponential_clocks((8, grid.num_tokens), seed=0, step=-1, device=torch.device("cpu"))
    assert batch.truth is not None
    return HeldOut(replace(batch, truth=None), clocks, {"mover": batch.truth})


def test_each_clip_is_seen_where_its_own_movers_are(
    make_method: Methods, make_stepper: Steppers, batch: ClipBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, plans = make_method(STRONG), []
    plan_of = method.planner.plan
    monkeypatch.setattr(
        method.planner, "plan", lambda *given, **more: plans.append(plan_of(*given, **more)) or plans[-1]
    )
    micro = [
        replace(batch, video=batch.video[cut], row=batch.row[cut], truth=batch.truth[cut])  # type: ignore[index]
        for cut in (slice(3), slice(3, 8))
    ]
    method.train_step(micro, step=0, stepper=make_stepper(method), averages=Averages())
    visible_idx = torch.cat([plan.visible_idx for plan in plans])
    assert batch.truth is not None
    seen = batch.truth.gather(1, visible_idx) > 0
    # The trace of uniform drawing takes the place of a mover now and then: the last ones left compete with 48 others.
    assert seen.float().mean() > 0.95


def test_validation_and_pictures_draw_by_the_truth_of_the_held_out_clips(
    make_method: Methods, batch: ClipBatch, grid: TokenGrid
) -> None:
    method, averages, held_out = make_method(OracleConfig(lift=3.0)), Averages(), held_out_of(batch, grid)
    method.validate(held_out, averages=averages)
    total, count = averages.take()["sampler/mover_lift"]
    assert (total / count, count) == (pytest.approx(3.0, rel=1e-4), 8)
    shot = make_method(STRONG).snapshot(held_out)
    assert batch.truth is not None
    assert (batch.truth[0, torch.from_numpy(shot.visible_idx)] > 0).float().mean() > 0.8


def test_clips_without_truth_are_refused_when_they_are_trained_on(
    make_method: Methods, make_stepper: Steppers, make_batch: Batches
) -> None:
    method = make_method(STRONG)
    with pytest.raises(ValueError, match="these clips came without"):
        method.train_step([make_batch(range(8))], step=0, stepper=make_stepper(method), averages=Averages())


def test_only_the_oracle_asks_for_truth(grid: TokenGrid) -> None:
    assert truth_grid(MaskingConfig(visible=OracleConfig()), grid) == grid
    for visible in (RandomConfig(), TubeConfig(), FrameDifferenceConfig(), AdaMAEConfig(), TATSConfig()):
        assert truth_grid(MaskingConfig(visible=visible), grid) is None


def test_there_is_nothing_to_learn_in_it(make_method: Methods) -> None:
    method = make_method(OracleConfig())
    assert set(method.modules()) == set(method.trainables()) == {"autoencoder"}
