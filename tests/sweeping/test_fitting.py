"""The bound on memory, against what autograd keeps and what the allocator hands out."""

from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.data.batches import ClipBatch
from tats_ray.methods.averages import Averages
from tats_ray.methods.build import training_kept_bytes
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.methods.ppo_update import PPOUpdate
from tats_ray.methods.reconstruction import token_error, weighted_mean
from tats_ray.nn.patches import normalized_patches, patchify, take_tokens
from tats_ray.recipes import recipe
from tats_ray.sweeping.fitting import least_bytes, need, why_it_cannot_fit
from tats_ray.training.context import LocalContext
from tats_ray.training.stepper import GradientStepper
from tats_ray.worker import build, make_trainables

CPU = torch.device("cpu")
KIND = "masking.visible.kind"
CHECKPOINTED = {f"model.{part}.activation_checkpointing": True for part in ("encoder", "decoder")}
LARGER = {"model.encoder.depth": 5, "model.decoder.depth": 2, "data.crop_size": 48}
KEPT_WITHIN = 1.3
"""Autograd keeps at most this many times the bound."""
PEAK_WITHIN = 1.5
"""And a training step holds at most this many times the bound."""


def tiny(**changes: Any) -> TrainRun:
    return change(recipe("tiny"), changes.items())


def clips(run: TrainRun, count: int) -> torch.Tensor:
    side = run.data.crop_size
    return torch.randint(0, 256, (count, run.data.num_frames, side, side, 3), dtype=torch.uint8)


def kept_by_autograd(method: MaskedAutoencoding, run: TrainRun, count: int, *, part: str) -> int:
    """Sum up the storages that are kept, each once, but for parameters and buffers."""
    own = [tensor for module in method.modules().values() for tensor in (*module.parameters(), *module.buffers())]
    known = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    patches = patchify(clips(run, count), run.grid)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=run.training.precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast:
        scores = method.update.prefer(patches)
        if part == "sampler":
            return sum(storage.nbytes() for storage in kept.values())
        kept.clear()
        scores = method.update.score(patches)
        plan = method.planner.plan(scores, torch.rand(count, run.grid.num_tokens))
        prediction = method.predict(patches, plan.visible_idx, plan.target_idx)
        error = token_error(prediction, normalized_patches(take_tokens(patches, plan.target_idx)))
        loss = weighted_mean(error, plan.target_weight)
        joint = method.update.joint_loss(plan, scores, error)
        loss = loss if joint is None else loss + joint  # alive until all is summed up
        return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("autoencoder", {KIND: "random", **LARGER}),
        ("autoencoder", {KIND: "adamae", **LARGER}),
        ("sampler", {KIND: "tats", **LARGER}),
        ("autoencoder", {KIND: "random", **LARGER, **CHECKPOINTED}),
    ],
)
def test_autograd_keeps_the_bound_and_little_more(part: str, changes: dict[str, Any], precision: str) -> None:
    run, count = tiny(**changes, **{"training.precision": precision}), 16
    width = 2 if precision == "bf16" else 4
    bound = training_kept_bytes(run.model, run.masking, grid=run.grid, width=width)
    expected = count * (bound[part] + (bound["sampler"] if run.masking.visible.kind == "adamae" else 0))
    measured = kept_by_autograd(build(run, 10, CPU), run, count, part=part)
    assert expected <= measured <= KEPT_WITHIN * expected


def peak_bytes(run: TrainRun, *, steps: int) -> int:
    """Train, and return the most that torch's allocator had handed out at once."""
    batch, micro = run.training.global_batch, run.training.micro_batch
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        method = build(run, 10, CPU)
        if isinstance(method.update, PPOUpdate):
            method.update.stage = "policy"
        trainables = make_trainables(run, method, 10)
        stepper = GradientStepper(trainables, LocalContext(CPU), precision="fp32", max_skipped_steps=0)
        for step in range(steps):
            rows = torch.arange(batch).split(micro)
            stepper.begin_step(step + 1)
            method.train_step(
                (ClipBatch(clips(run, len(row)), row) for row in rows), step=step, stepper=stepper, averages=Averages()
            )
    events = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    level = peak = 0
    for _, change_of_bytes in sorted((one.start_ns(), one.nbytes()) for one in events if one.name() == "[memory]"):
        level += change_of_bytes
        peak = max(peak, level)
    return peak


@pytest.mark.parametrize(
    ("changes", "moment"),
    [
        ({KIND: "tats"}, "backward"),
        ({KIND: "random", "training.micro_batch": 2}, "backward"),
        ({KIND: "adamae"}, "backward"),
        ({KIND: "random", "model.encoder.embed_dim": 288, "training.global_batch": 1}, "step"),
        ({KIND: "tats", "masking.visible.embed_dim": 128, "masking.visible.ppo.rollout_steps": 2}, "update"),
    ],
)
def test_training_needs_the_bound_and_not_twice_as_much(changes: dict[str, Any], moment: str) -> None:
    run = tiny(**changes)
    needed = need(run)
    assert max(("backward", "step", "update"), key=lambda name: getattr(needed, name)) == moment
    assert needed.total <= peak_bytes(run, steps=3) <= PEAK_WITHIN * needed.total


def test_a_sampler_that_never_learns_needs_nothing() -> None:
    large = {KIND: "tats", "masking.visible.embed_dim": 256}
    learns = tiny(**large, **{"masking.visible.switch.critic_by": 0.5})
    never = tiny(**large, **{"masking.visible.switch.critic_by": 1.0})
    assert need(learns).update > 0 == need(never).update
    assert least_bytes(never) < least_bytes(learns)


def test_workers_share_a_step_and_add_up_gradients() -> None:
    alone = need(tiny(**{KIND: "random", "training.global_batch": 16, "training.micro_batch": 16}))
    shared = need(
        tiny(**{KIND: "random", "training.global_batch": 16, "training.micro_batch": 16, "cluster.num_workers": 4})
    )
    assert (alone.micro_batch, shared.micro_batch) == (16, 4)
    assert 4 * shared.backward == alone.backward
    assert (alone.step, shared.step) == (alone.gradients, 2 * alone.gradients)


def test_a_compiler_decides_what_it_keeps() -> None:
    assert need(tiny(**{"training.compile": True})).kept == 0


def test_what_cannot_fit_is_told_with_a_way_out_that_works() -> None:
    run = recipe("videomae-base")
    assert why_it_cannot_fit(run, 2 * least_bytes(run)) is None
    assert why_it_cannot_fit(run, least_bytes(run)) is None
    memory = 0.5 * least_bytes(run)
    reason = why_it_cannot_fit(run, memory)
    assert reason is not None
    assert f"there are {memory / 2**30:.3g} GiB" in reason
    smaller = int(reason.partition("training.micro_batch=")[2].split()[0])
    assert why_it_cannot_fit(change(run, [("training.micro_batch", smaller)]), memory) is None
    assert why_it_cannot_fit(change(run, [("training.micro_batch", smaller + 1)]), memory) is not None
    assert "smaller model.encoder" in (why_it_cannot_fit(run, 1e8) or "")


@pytest.mark.parametrize("kind", ["random", "tats"])
def test_adamw_keeps_two_moments_of_each_parameter_of_the_autoencoder(kind: str) -> None:
    run = tiny(**{KIND: kind})
    numbers = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in build(run, 1, CPU).trainables().items()
    }
    assert need(run).state == 4 * (sum(numbers.values()) + 2 * numbers["autoencoder"])
