"""A run on long clips goes on from the weights of one on short clips, or is refused before anything starts."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tats_ray.config.error import ConfigError
from tats_ray.config.run import TrainRun
from tats_ray.worker import build, check_init

Runs = Callable[..., TrainRun]
CPU = torch.device("cpu")


@pytest.fixture
def run_of(small_run: Runs, tmp_path: Path) -> Runs:
    def make(frames: int, **knobs: object) -> TrainRun:
        given = {"data.num_frames": frames, **{name.replace("__", "."): value for name, value in knobs.items()}}
        return small_run(f"of-{frames}", manifest=tmp_path / "m.parquet", results=tmp_path, knobs=given)

    return make


@pytest.mark.parametrize("frames", [16, 32])
@pytest.mark.parametrize("positions", ["1d", "3d"])
def test_128_frames_go_on_from_fewer(frames: int, positions: str, run_of: Runs, save_run: Callable[..., Path]) -> None:
    short = run_of(frames, model__positions=positions)
    init = save_run(short) / "checkpoints" / "step_00000008"
    knobs = {"model__positions": positions, "masking__visible__window_frames": frames, "init": str(init)}
    long = run_of(128, **knobs)
    check_init(long)
    before, after = build(short.model_copy(update={"init": str(init)}), 8, CPU), build(long, 8, CPU)
    for name, module in before.modules().items():
        weights = dict(after.modules()[name].named_parameters())
        assert all(torch.equal(value, weights[key]) for key, value in module.named_parameters())
    for part in ("encoder", "decoder"):
        few, many = (method.autoencoder.get_buffer(f"{part}.positions") for method in (before, after))
        assert (len(few), len(many)) == (short.grid.num_tokens, long.grid.num_tokens)
        assert torch.equal(many[: len(few)], few)
    patches = torch.randint(0, 256, (2, long.grid.num_tokens, long.model.patch_pixels), dtype=torch.uint8)
    idx = torch.arange(0, short.grid.num_tokens, 3).expand(2, -1)
    with torch.no_grad():  # what the encoder makes of tokens of the first frames does not know of the others
        features = [
            method.autoencoder.encoder(patches[:, :tokens], idx)
            for method, tokens in ((before, short.grid.num_tokens), (after, long.grid.num_tokens))
        ]
    assert torch.equal(*features)


def test_learnt_positions_do_not_go_on(run_of: Runs, save_run: Callable[..., Path]) -> None:
    init = str(save_run(run_of(16)) / "checkpoints" / "step_00000008")
    check_init(run_of(16, init=init))
    with pytest.raises(ConfigError, match=r"learnt for 128 tokens, and this run's looks at 1024; .*window_frames=16"):
        check_init(run_of(128, init=init))
    with pytest.raises(ConfigError, match=r"learnt for 128 tokens, and this run's looks at 64; .*of the same length"):
        check_init(run_of(8, init=init))
