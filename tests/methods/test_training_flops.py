"""Counted FLOPs of a step against torch's counter, for every target rule and for a sampler in windows."""

from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tats_ray.geometry import TokenGrid
from tats_ray.masking.all_hidden import AllHiddenConfig
from tats_ray.masking.embedding_distance import EmbeddingDistanceConfig
from tats_ray.masking.fixed import TubeConfig
from tats_ray.masking.importance import ChangeConfig, NoImportanceConfig
from tats_ray.masking.important import ImportantConfig
from tats_ray.masking.pool import PoolConfig, PoolRestConfig
from tats_ray.masking.random_share import RandomShareConfig
from tats_ray.masking.running_cell import RunningCellConfig
from tats_ray.masking.tats import TATSConfig, TATSScorer
from tats_ray.masking.tokenizer_importance import TokenizerImportanceConfig
from tats_ray.masking.uniform_slices import UniformSlicesConfig
from tats_ray.masking.windowed import WindowedScorer, window_grid
from tats_ray.methods.build import MaskingConfig, ModelConfig, build_method, mask_planner, training_flops
from tats_ray.nn.cost import autoencoder_macs, forward_flops
from tats_ray.nn.decoder import DecoderConfig
from tats_ray.nn.encoder import EncoderConfig
from tats_ray.tokenizer.scorer import TokenScorer

LONG = TokenGrid(time=64, height=14, width=14)  # 128 frames of 224 pixels
BASE = ModelConfig(encoder=EncoderConfig.of_size("base"), decoder=DecoderConfig.of_size("base"))
CHANGE, NONE = ChangeConfig(), NoImportanceConfig()
MASKING = {
    "all hidden": MaskingConfig(visible=TubeConfig(), target=AllHiddenConfig(), importance=NONE),
    "cells": MaskingConfig(visible=TubeConfig(), target=RunningCellConfig(), importance=NONE),
    "slices": MaskingConfig(visible=TubeConfig(), target=UniformSlicesConfig(), importance=NONE),
    "random": MaskingConfig(visible=TubeConfig(), target=RandomShareConfig(), importance=NONE),
    "important": MaskingConfig(visible=TubeConfig(), target=ImportantConfig(), importance=CHANGE),
    "pool": MaskingConfig(visible=PoolConfig(), target=PoolRestConfig(), importance=EmbeddingDistanceConfig()),
}


def count(run: Callable[[], torch.Tensor], *, backward: bool) -> int:
    """What torch counts on shapes alone; products of attention in their plain form."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):
        made = run()
        if backward:
            made.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", MASKING)
def test_a_step_costs_what_torch_counts(name: str) -> None:
    masking = MASKING[name]
    planner = mask_planner(masking, LONG)
    with torch.device("meta"):  # drawing weights looks at numbers, which shapes alone have not
        autoencoder = build_method(BASE, masking, grid=LONG, total_steps=1, global_batch=1, seed=0).autoencoder

    def step() -> torch.Tensor:
        autoencoder.to_empty(device="cpu")
        patches = torch.zeros(1, LONG.num_tokens, BASE.patch_pixels, dtype=torch.uint8)
        visible_idx, target_idx = (
            torch.zeros(1, number, dtype=torch.int64) for number in (planner.rule.count, planner.target.count)
        )
        return autoencoder(patches, visible_idx, target_idx)

    # Less by the gradient of the pixels, which nobody asks for.
    unasked = forward_flops(planner.rule.count * BASE.patch_pixels * BASE.encoder.embed_dim)
    assert training_flops(BASE, masking, grid=LONG)["autoencoder"] - unasked == count(step, backward=True)


def test_a_sampler_in_windows_costs_what_torch_counts() -> None:
    config = TATSConfig(window_frames=16)
    window = window_grid(LONG, window_frames=16, tubelet_size=2)

    def score() -> torch.Tensor:
        scorer = WindowedScorer(TATSScorer(config, grid=window, patch_pixels=BASE.patch_pixels), window)
        return scorer(torch.zeros(1, LONG.num_tokens, BASE.patch_pixels, dtype=torch.uint8)).logits

    forward = count(score, backward=False)
    heads = 2 * 2 * LONG.num_tokens * config.embed_dim  # actor and critic, one number a token each
    passes = 1 + 3 * config.ppo.update_epochs
    assert training_flops(BASE, MaskingConfig(visible=config), grid=LONG)["sampler"] == passes * (forward - heads)


@pytest.mark.parametrize(("widths", "patch_size"), [((64, 128), 16), ((5, 7), 8)])
def test_a_tokenizers_scorer_costs_what_torch_counts(widths: tuple[int, int], patch_size: int) -> None:
    """Of two windows of 16 frames, one after the other; unknown before the checkpoint was read, it counts nothing."""
    grid = TokenGrid.of(num_frames=32, crop_size=48, tubelet_size=2, patch_size=patch_size)
    masking = MaskingConfig(target=ImportantConfig(), importance=TokenizerImportanceConfig(scorer_widths=widths))
    model = ModelConfig(patch_size=patch_size)

    def score() -> torch.Tensor:
        scorer = TokenScorer(widths=widths, tubelet_size=2, patch_size=patch_size)
        return scorer(torch.zeros(2, 3, 16, 48, 48))

    assert training_flops(model, masking, grid=grid)["importance"] == count(score, backward=False)
    unread = masking.model_copy(update={"importance": TokenizerImportanceConfig()})
    assert training_flops(model, unread, grid=grid)["importance"] == 0


def test_decoding_15_per_cent_of_128_frames_costs_a_tenth() -> None:
    """The figures of the design: 1,144 and 106 GFLOP forward, the last block's part for visible tokens included."""
    visible = mask_planner(MASKING["important"], LONG).rule.count
    flops = {}
    for target in (LONG.num_tokens - visible, 1881):
        macs = autoencoder_macs(
            BASE.encoder, BASE.decoder, visible=visible, target=target, patch_pixels=BASE.patch_pixels
        )
        flops[target] = forward_flops(macs.bridge + macs.decoder + macs.head)
    dense, sparse = flops.values()
    assert dense / 1e9 == pytest.approx(1144, rel=0.03)
    assert sparse / dense < 0.12
