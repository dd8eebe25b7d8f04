"""Training a tokenizer: what is measured against numbers by hand, who learns from what, and that it learns."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tats_ray.config.files import read_run, to_yaml
from tats_ray.config.overrides import ConfigError, change
from tats_ray.config.tokenizer_run import TokenizerRun
from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid
from tats_ray.methods.averages import Averages, usage
from tats_ray.methods.base import HeldOut
from tats_ray.methods.tokenizer import TokenizerTraining, build_tokenizer, tokenizer_flops
from tats_ray.methods.tokenizer_measures import measure_kept, measure_pixels
from tats_ray.recipes import TOKENIZER_RECIPES, recipe, tokenizer_recipe
from tats_ray.tokenizer.adversarial import LossConfig
from tats_ray.tokenizer.autoencoder import AutoencoderConfig, Encoder
from tats_ray.tokenizer.model import TokenizerConfig
from tats_ray.training.context import LocalContext
from tats_ray.training.optim import OptimConfig, scheduled_trainable
from tats_ray.training.pictures import write_pictures
from tats_ray.training.stepper import GradientStepper

GRID = TokenGrid.of(num_frames=4, crop_size=16, tubelet_size=2, patch_size=4)
CONFIG = TokenizerConfig(
    base_channels=8,
    channel_multipliers=(1, 2, 2),
    residual_blocks=1,
    scorer_widths=(4, 6),
    keep_ratio=0.75,
    levels=(8, 8, 8),
    samples=8,
)
ADVERSARIAL = LossConfig(adversarial_weight=0.5, discriminator_channels=4, adversarial_from=0.5)


def made(losses: LossConfig = ADVERSARIAL, *, total_steps: int = 10) -> TokenizerTraining:
    torch.manual_seed(0)
    return build_tokenizer(CONFIG, losses, grid=GRID, total_steps=total_steps)


def stepper_of(method: TokenizerTraining, *, rate: float = 1e-3) -> GradientStepper:
    config = OptimConfig(base_learning_rate=rate, base_min_learning_rate=rate, warmup_share=0, weight_decay=0)
    trainables = {
        name: scheduled_trainable(module, config, global_batch=256, total_steps=100)
        for name, module in method.trainables().items()
    }
    return GradientStepper(trainables, LocalContext(torch.device("cpu")), precision="fp32", max_skipped_steps=0)


def batch(size: int = 3, *, seed: int = 1) -> ClipBatch:
    """Clips of a grey that differs from clip to clip, with a bright bar that moves."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randint(30, 130, (size, 1, 1, 1, 3), generator=generator).expand(size, 4, 16, 16, 3).clone()
    for frame in range(4):
        video[:, frame, :, 4 * frame : 4 * frame + 4] += 100
    return ClipBatch(video.to(torch.uint8), torch.arange(size))


def weights(module: nn.Module | None) -> Tensor:
    assert module is not None
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


def test_a_discriminator_waits_for_its_time_then_both_learn_each_from_its_own_loss() -> None:
    method = made()
    stepper = stepper_of(method)
    tokenizer, judge = weights(method.tokenizer), weights(method.discriminator)
    for step, learns in ((4, False), (5, True)):
        averages = Averages()
        stepper.begin_step(step)
        method.train_step([batch(2), batch(0), batch(1)], step=step, stepper=stepper, averages=averages)
        assert (weights(method.discriminator) != judge).any() == learns
        assert ("tokenizer/discriminator_loss" in averages.take()) == learns
        assert (weights(method.tokenizer) != tokenizer).any()
        tokenizer = weights(method.tokenizer)


def test_no_gradient_goes_astray_between_tokenizer_and_discriminator() -> None:
    method = made()
    judge = method.discriminator
    assert judge is not None

    class Spy(GradientStepper):
        def accumulate(self, name: str, loss: Tensor) -> None:
            others = [judge] if name == "tokenizer" else [method.tokenizer]
            before = [parameter.grad for module in others for parameter in module.parameters()]
            super().accumulate(name, loss)
            after = [parameter.grad for module in others for parameter in module.parameters()]
            assert all(one is two for one, two in zip(before, after, strict=True))
            seen.append(name)

    seen: list[str] = []
    stepper = stepper_of(method)
    spy = Spy(stepper.trainables, stepper.context, precision="fp32", max_skipped_steps=0)
    method.train_step([batch()], step=9, stepper=spy, averages=Averages())
    assert seen == ["tokenizer", "discriminator"]
    assert all(parameter.requires_grad for parameter in judge.parameters())


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    losses = LossConfig(pixel_weight=2, perceptual_weight=0.5, perceptual_weights="unused")
    plain = made(LossConfig())
    method = TokenizerTraining(
        plain.tokenizer,
        losses,
        discriminator=None,
        perceptual=lambda rebuilt, real: (rebuilt - real).abs().flatten(1).amax(1),
        total_steps=10,
    )
    summed: list[float] = []

    class Spy(GradientStepper):
        def accumulate(self, name: str, loss: Tensor) -> None:
            summed.append(float(loss.detach()))
            super().accumulate(name, loss)

    stepper = stepper_of(method)
    averages = Averages()
    spy = Spy(stepper.trainables, stepper.context, precision="fp32", max_skipped_steps=0)
    torch.manual_seed(0)
    with torch.no_grad():
        rebuilt = method.tokenizer(batch().video).pixels
        gap = rebuilt - batch().video.permute(0, 4, 1, 2, 3) / 255
    method.train_step([batch()], step=0, stepper=spy, averages=averages)
    wanted = [2 * float(one.square().mean()) + 0.5 * float(one.abs().max()) for one in gap]
    assert summed == pytest.approx([sum(wanted)])
    total, count = averages.take()["tokenizer/perceptual_loss"]
    assert total / count == pytest.approx(sum(float(one.abs().max()) for one in gap) / 3)


def test_the_noise_falls_linearly() -> None:
    assert [made().sigma(step) for step in (0, 5, 10, 12)] == pytest.approx([0.05, 0.0275, 0.005, 0.005])


def test_psnr_and_ssim_by_hand() -> None:
    real = torch.zeros(2, 3, 2, 16, 16)
    real[:, :, :, 8:] = 0.4
    rebuilt = real.clone()
    rebuilt[0] += 0.1
    rebuilt[1, :, 0] += 0.2  # one of two frames
    averages = Averages()
    measure_pixels(rebuilt, real, averages)
    taken = {name: total / count for name, (total, count) in averages.take().items()}
    assert taken["validation/psnr"] == pytest.approx((20 + 10 * math.log10(1 / 0.02)) / 2, abs=1e-3)
    assert taken["validation/psnr_mean_colour"] == pytest.approx(10 * math.log10(1 / 0.04), abs=1e-3)
    assert 0.5 < taken["validation/ssim"] < 0.99
    measure_pixels(real + 1e-4, real, averages)
    total, count = averages.take()["validation/ssim"]
    assert total / count == pytest.approx(1, abs=1e-3)


def test_shares_of_kept_tokens_leave_the_first_slice_out() -> None:
    grid = TokenGrid(time=2, height=2, width=2)
    kept = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0, 0, 1]]).float()
    shows = torch.tensor([[1, 1, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]]).bool()
    averages = Averages()
    measure_kept("mover", kept, shows, grid, averages)  # the second clip shows nothing after its first slice
    assert averages.take() == {"validation/kept_on_mover": (0.5, 1), "validation/tokens_on_mover": (0.25, 1)}


def test_usage_and_perplexity_of_codes_are_of_all_workers_together() -> None:
    parts = []
    for numbers in ([0, 0, 3, 3], [3, 3, 5, 5]):
        averages = Averages()
        for half in (numbers[:2], numbers[2:]):
            averages.tally("validation/code", torch.tensor(half), size=1000)
        parts.append(averages.take_tallies())
        assert averages.take_tallies() == {}
    entropy = -(0.25 * math.log(0.25) * 2 + 0.5 * math.log(0.5))
    assert usage(parts) == {
        "validation/code_usage": 3 / 8,
        "validation/code_perplexity": pytest.approx(math.exp(entropy)),
    }
    tally = Averages()
    tally.tally("code", torch.arange(40) % 4, size=8)
    assert usage([tally.take_tallies()]) == {"code_usage": 0.5, "code_perplexity": pytest.approx(4)}


def test_flops_are_three_forward_passes_counted_by_hand() -> None:
    """Of an encoder with one stage: stem 3->4, two residual blocks of two convolutions, head and linear way to two."""
    config = AutoencoderConfig(base_channels=4, channel_multipliers=(1,), temporal_halvings=0, residual_blocks=1)
    pixels = 2 * 8 * 8
    by_hand = 2 * pixels * (27 * (3 * 4 + 4 * 4 * 4) + 4 * 2 + 3 * 2)
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        Encoder(config, dim=2)(torch.zeros(1, 3, 2, 8, 8))
    assert counter.get_total_flops() == by_hand
    alone = tokenizer_flops(CONFIG, LossConfig(), grid=GRID)
    both = tokenizer_flops(CONFIG, ADVERSARIAL, grid=GRID)
    assert alone == {"tokenizer": both["tokenizer"]}
    assert both["discriminator"] > 0


def test_it_learns_and_shows_it(tmp_path: Path) -> None:
    """On one batch, from pixels alone: far above the mean colour, and every code of the picture is in its place."""
    method = made(LossConfig(), total_steps=60)
    stepper = stepper_of(method, rate=1e-2)
    held_out = HeldOut(batch(), torch.zeros(3, GRID.num_tokens), {"mover": torch.ones(3, GRID.num_tokens)})
    psnr = []
    for step in range(60):
        stepper.begin_step(step)
        method.train_step([batch()], step=step, stepper=stepper, averages=Averages())
        if step in (0, 59):
            averages = Averages()
            method.validate(held_out, averages=averages)
            taken = {name: total / count for name, (total, count) in averages.take().items()}
            psnr.append(taken["validation/psnr"])
    assert psnr[1] > taken["validation/psnr_mean_colour"] + 3
    assert psnr[1] > psnr[0] + 5
    assert taken["validation/kept_on_mover"] == taken["validation/tokens_on_mover"] == 1
    assert method.features(batch().video).shape == (3, 2 * 3)
    files = write_pictures(method.snapshot(held_out), tmp_path, step=60)
    assert [file.name for file in files] == ["reconstruction_step_00000060.png", "reconstruction_step_00000060.gif"]
    assert all(file.stat().st_size > 1000 for file in files)


@pytest.mark.parametrize("name", TOKENIZER_RECIPES)
def test_recipes_go_to_yaml_and_back(name: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(to_yaml(tokenizer_recipe(name)))
    assert read_run(tmp_path / "run.yaml", TokenizerRun) == tokenizer_recipe(name)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"data.num_frames": 15}, "num_frames must be a multiple of tubelet_size, got 15 frames, tubelets of 2"),
        ({"data.crop_size": 36}, "crop_size must be a multiple of patch_size, got 36 pixels and patches of 8"),
        ({"data.num_frames": 2}, "take data.num_frames=4 at least"),
        ({"tokenizer.keep_ratio": 0.1}, "tokenizer.keep_ratio must keep more than the first slice"),
        ({"tokenizer.levels": [8, 1]}, "levels must be at least 2"),
        ({"losses.perceptual_weight": 0.1}, "needs losses.perceptual_weights, a file of torchvision's ResNet-50"),
        ({"masking.mask_ratio": 0.5}, "there is no knob 'masking.mask_ratio'"),
        ({"tokenizer.keep_ration": 0.5}, "did you mean tokenizer.keep_ratio"),
        ({"name": "../elsewhere"}, "name: string should match pattern"),
        ({"tokenizer.samples": True}, "tokenizer.samples: must be int, got true"),
        ({"training.steps": None}, "exactly one of training.epochs and training.steps"),
    ],
)
def test_settings_that_make_no_sense_are_refused(knobs: Mapping[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        change(tokenizer_recipe("tokenizer-tiny"), knobs.items())
    assert says in str(raised.value)


def test_a_run_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(to_yaml(recipe("tiny")))
    with pytest.raises(ConfigError, match="there is no knob"):
        read_run(tmp_path / "run.yaml", TokenizerRun)


def test_the_perceptual_network_is_looked_for_before_anything_starts(make_absolute: Callable[[str, str], str]) -> None:
    run = change(
        tokenizer_recipe("tokenizer-tiny"),
        [("losses.perceptual_weight", 0.1), ("losses.perceptual_weights", "nowhere.pth")],
    )
    with pytest.raises(ValueError, match=r"losses.perceptual_weights=/somewhere/nowhere.pth is no file"):
        run.settled(make_absolute)


@pytest.fixture
def make_absolute() -> Callable[[str, str], str]:
    return lambda path, knob: f"/somewhere/{path}"
