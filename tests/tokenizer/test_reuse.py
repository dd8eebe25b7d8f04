"""Masked autoencoders that take codes, importance, or the scorer from a tokenizer."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.encode_clips import main
from tats_ray.config.error import ConfigError
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.data.batches import ClipBatch
from tats_ray.data.code_rows import CodesError
from tats_ray.data.manifest import Manifest
from tats_ray.driver import conduct, prepare
from tats_ray.encoding import FrozenTokenizer
from tats_ray.geometry import TokenGrid
from tats_ray.masking.tokenizer_importance import CachedImportance, TokenizerImportance
from tats_ray.methods.averages import Averages
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.recipes import recipe
from tats_ray.viewing.look import open_trained
from tats_ray.worker import build, run_with_bar

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))
SMALL = {
    "cluster.num_workers": 0,
    "cluster.use_gpu": False,
    "data.frame_stride": 1,
    "data.num_frames": 8,
    "data.crop_size": 16,
    "data.held_out": 2,
    "data.flip": False,
    "model.patch_size": 4,
    "model.encoder.embed_dim": 16,
    "model.encoder.depth": 1,
    "model.encoder.num_heads": 2,
    "model.decoder.embed_dim": 16,
    "model.decoder.num_heads": 2,
    "masking.mask_ratio": 0.9,
    "masking.visible.kind": "tube",
    "masking.target.kind": "important",
    "masking.target.mode": "overlap",
    "training.steps": 8,
    "training.global_batch": 4,
    "training.micro_batch": 4,
    "training.validate_every": 4,
    "training.picture_every": 8,
    "training.checkpoint_every": 8,
    "tracking.log_every": 4,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tokenizer, ten videos, and the codes of two clips of each, one of them mirrored."""
    root = tmp_path_factory.mktemp("reuse")
    folder, manifest = MADE["save_tokenizer"](root), MADE["write_videos"](root / "videos", count=10)
    given = ["--checkpoint", str(folder), "--out", str(root / "codes"), f"data.manifest={manifest}"]
    assert main([*given, "data.num_frames=8", "data.flip=true", "cluster.num_workers=0"]) == 0
    return {"tokenizer": folder, "manifest": manifest, "codes": root / "codes"}


@pytest.fixture
def coded_run(made: dict[str, Path], tmp_path: Path) -> Callable[..., TrainRun]:
    """Make a run on 8 frames; ``knobs`` say what it takes of the tokenizer."""

    def make(name: str, **knobs: object) -> TrainRun:
        own = {path.replace("__", "."): value for path, value in knobs.items()}
        places = {"name": name, "data.manifest": str(made["manifest"]), "results": str(tmp_path)}
        return change(recipe("tiny"), {**SMALL, **places, **own}.items())

    return make


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_a_run_learns_codes_of_the_most_important_tokens(
    made: dict[str, Path], coded_run: Callable[..., TrainRun], loss: str
) -> None:
    run = coded_run(
        "codes",
        data__codes=str(made["codes"]),
        model__prediction__kind="codes",
        model__prediction__loss=loss,
        masking__importance__kind="codes",
        training__steps=12,
        optim__base_learning_rate=0.3,
    )
    outcome = conduct(run, run_with_bar)
    folder = outcome.launch.folder
    assert outcome.launch.run.data.tokenizer == json.loads((made["codes"] / "codes.json").read_text())["tokenizer"]
    assert outcome.summary["validation/random_mask_error"] > 0
    assert [path.name for path in sorted((folder / "pictures").glob("*.png"))] == [
        "tokens_step_00000008.png",
        "tokens_step_00000012.png",
    ]
    with pytest.raises(ValueError, match="predicts codes, which are no pixels to look at"):
        open_trained(folder)


def test_the_scorer_on_line_ranks_as_it_did_when_it_was_cached_and_never_changes(
    made: dict[str, Path], coded_run: Callable[..., TrainRun], make_stepper: Callable[..., Any]
) -> None:
    given = coded_run(
        "online", masking__importance__kind="tokenizer", masking__importance__checkpoint=str(made["tokenizer"])
    )
    run, _ = prepare(given)
    assert isinstance(run, TrainRun)
    frozen = FrozenTokenizer.load(made["tokenizer"], device=torch.device("cpu"))
    method = build(run, 8, torch.device("cpu"))
    assert isinstance(method, MaskedAutoencoding)
    assert isinstance(method.importance, TokenizerImportance)
    tokenizer = method.importance.tokenizer
    assert tokenizer is not None
    before = tokenizer.content_hash()
    assert before == frozen.digest == run.masking.importance.model_dump()["digest"]
    assert run.masking.importance.model_dump()["scorer_widths"] == (4, 4)
    assert run.flops()["importance"] > 0
    video = torch.randint(256, (4, 8, 16, 16, 3), dtype=torch.uint8)
    batch = ClipBatch(video, torch.arange(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as in training; what was cached knows none
        ranked = method.importance(batch, torch.zeros(0))
    assert torch.equal(ranked, frozen.tokenizer.importance(video))
    stepper = make_stepper(method)
    for step in range(3):
        stepper.begin_step(step)
        method.train_step([batch], step=step, stepper=stepper, averages=Averages())
    assert tokenizer.content_hash() == before
    assert not any(name.startswith("importance") for name in method.modules())


def test_cached_importance_that_ranks_nothing_is_refused() -> None:
    grid = TokenGrid(time=2, height=1, width=2)
    video, row = torch.zeros(1, 4, 8, 8, 3, dtype=torch.uint8), torch.arange(1)
    codes = torch.zeros(1, 4, dtype=torch.int64)
    ranks = torch.tensor([[1.0, 2.0, torch.nan, 3.0]])
    with pytest.raises(ValueError, match="importance must be finite, 1 of 4"):
        CachedImportance(grid=grid)(ClipBatch(video, row, codes=codes, importance=ranks), torch.zeros(0))
    with pytest.raises(ValueError, match=r"needs the importance of every clip; set data.codes"):
        CachedImportance(grid=grid)(ClipBatch(video, row), torch.zeros(0))


def test_what_does_not_fit_is_refused_before_it_starts(
    made: dict[str, Path], coded_run: Callable[..., TrainRun], tmp_path: Path
) -> None:
    codes, online = {"data__codes": str(made["codes"])}, {"masking__importance__kind": "tokenizer"}
    ranked = {"masking__importance__kind": "frame-difference"}
    for knobs, error, says in (
        ({"model__prediction__kind": "codes", **ranked}, ConfigError, "model.prediction.kind=codes needs cached codes"),
        ({"masking__importance__kind": "codes"}, ConfigError, "masking.importance.kind=codes needs cached codes"),
        (
            {"model__prediction__kind": "codes", "model__prediction__levels": [8, 8], **ranked, **codes},
            ConfigError,
            "take model.prediction.levels=[8, 8, 8, 8, 8, 8]",
        ),
        ({**online}, ConfigError, "masking.importance.checkpoint is not set"),
        (
            {**online, "masking__importance__checkpoint": str(made["tokenizer"]), "masking__importance__digest": "f00"},
            ConfigError,
            ", not f00; name",
        ),
        (
            {
                **online,
                "masking__importance__checkpoint": str(made["tokenizer"]),
                "masking__importance__scorer_widths": [4, 5],
            },
            ConfigError,
            "masking.importance.scorer_widths=[4, 5] are not those of",
        ),
        (
            {**online, "masking__importance__checkpoint": str(made["tokenizer"]), "data__num_frames": 10},
            ConfigError,
            "scores windows of 4 frames of 16 pixels, and they do not make up clips of data.num_frames=10",
        ),
        (
            {**online, "masking__importance__checkpoint": str(made["tokenizer"]), "data__crop_size": 32},
            ConfigError,
            "and they do not make up clips of data.num_frames=8 and data.crop_size=32",
        ),
        (
            {**online, "masking__importance__checkpoint": str(made["tokenizer"]), "model__patch_size": 2},
            ConfigError,
            "scores latents of 2 frames of 4 pixels",
        ),
        ({**codes, **ranked, "data__num_frames": 12}, CodesError, "are of other clips: data.num_frames is 12, was 8"),
    ):
        with pytest.raises(error) as raised:
            prepare(coded_run("refused", **knobs))
        assert says in str(raised.value)
    assert not (tmp_path / "refused").exists()
    assert len(Manifest.read(made["manifest"])) == 10
