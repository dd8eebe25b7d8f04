"""Checkpoints are opened, and what they are said to see is what their parts say by themselves."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.geometry import TokenGrid
from tats_ray.nn.patches import patchify
from tats_ray.training.state import CheckpointError
from tats_ray.viewing.look import (
    Trained,
    follows_paths,
    is_checkpoint,
    look,
    mean_feature,
    nearest,
    open_together,
    open_trained,
    token_number,
    token_place,
)

GRID = TokenGrid(time=2, height=4, width=4)  # of the small run's clips: 4 frames of 16 pixels, patches of 2 x 4 x 4


@pytest.fixture(scope="module")
def make(
    small_run: Callable[..., TrainRun], save_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Make the folder of a run of some kind, by name."""
    results = tmp_path_factory.mktemp("results")

    def of_kind(name: str, kind: str = "tats", *, steps: tuple[int, ...] = (8,), number: str = "0001", **knobs) -> Path:
        run = small_run(
            name, manifest=Path("none.parquet"), results=results, knobs={"masking.mask_ratio": 0.75, **knobs}
        )
        if kind != "tats":
            run = change(run, {"masking.visible.kind": kind}.items())
        if kind == "adamae":
            run = change(run, {"masking.visible.num_heads": 2}.items())
        return save_run(run, steps=steps, number=number)

    return of_kind


@pytest.fixture(scope="module")
def tats(make: Callable[..., Path]) -> Trained:
    return open_trained(make("tats"))


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    noise = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8, generator=noise)


def test_a_runs_folder_is_its_newest_checkpoint_and_a_checkpoint_is_itself(make: Callable[..., Path]) -> None:
    folder = make("two", steps=(4, 8))
    older = folder / "checkpoints" / "step_00000004"
    newest, old = open_trained(folder), open_trained(older)
    assert (newest.name, newest.number, newest.step, old.step) == ("two", "0001", 8, 4)
    weights = (trained.method.autoencoder.state_dict()["encoder.norm.weight"] for trained in (newest, old))
    assert not torch.equal(*weights)
    assert [is_checkpoint(path) for path in (folder, older, folder / "checkpoints", folder.parent)] == [1, 1, 0, 0]


def test_opening_draws_nothing_from_the_global_generator(make: Callable[..., Path]) -> None:
    folder = make("quiet")
    before = torch.get_rng_state()
    open_trained(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_policys_clip(tats: Trained, video: torch.Tensor) -> None:
    seen, scorer = look(tats, video, seed=3, clip=1), tats.method.update.scorer
    assert isinstance(scorer, torch.nn.Module)
    patches = patchify(video[None], GRID)
    with torch.no_grad():
        scores = scorer(patches)
        tokens = scorer.embed(patches) + scorer.positions
        probability = scores.logits.softmax(1)[0]
        likeliest = probability.argmax()
        path = scorer.block.attention_path(tokens, GRID, token_idx=likeliest[None])[0]
    assert probability.max() > 2 * probability.min()  # or the likeliest would be anyone
    np.testing.assert_allclose(seen.snapshot.probability, probability, rtol=1e-6)
    np.testing.assert_array_equal(seen.critic, scores.value[0])
    assert seen.path is not None
    assert seen.path.token == likeliest
    np.testing.assert_array_equal(seen.path.weight, path.flatten())
    other = look(tats, video, seed=3, clip=1, token=7).path
    assert other is not None
    assert other.token == 7
    assert not np.allclose(other.weight, seen.path.weight, atol=1e-3)


def test_the_error_of_hidden_tokens_by_hand(tats: Trained, video: torch.Tensor) -> None:
    seen = look(tats, video, seed=3, clip=1)
    hidden = [token for token in range(GRID.num_tokens) if token not in seen.snapshot.random_idx]
    assert len(hidden) == 24  # three quarters of 32
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(seen.error)), hidden)
    patches = patchify(video[None], GRID)
    with torch.no_grad():
        prediction = tats.method.autoencoder(
            patches, torch.from_numpy(seen.snapshot.random_idx)[None], torch.tensor([hidden])
        )[0].double()
    errors = []
    for guess, token in zip(prediction, hidden, strict=True):
        pixels = patches[0, token].double().view(-1, 3) / 255
        target = (pixels - pixels.mean(0)) / (pixels.std(0) + 1e-6)
        errors.append(float((guess.view(-1, 3) - target).square().mean()))
    np.testing.assert_allclose(seen.error[hidden], np.array(errors) / np.mean(errors), rtol=1e-4)  # float32 rounding
    np.testing.assert_allclose(np.nanmean(seen.error), 1, rtol=1e-6)


def test_fixed_rules_and_adamae_lack_what_they_lack(make: Callable[..., Path], video: torch.Tensor) -> None:
    for kind, has_policy in (("random", False), ("adamae", True)):
        trained = open_trained(make(f"lacks-{kind}", kind))
        seen = look(trained, video, seed=0, clip=0, token=0)
        assert not follows_paths(trained)
        assert (seen.critic, seen.path) == (None, None)
        assert (seen.snapshot.probability is not None) == has_policy


def test_all_draw_from_the_noise_of_seed_and_clip(
    tats: Trained, make: Callable[..., Path], video: torch.Tensor
) -> None:
    other = open_trained(make("other-seed", "random", seed=9))
    first, same, next_clip = (
        look(trained, video, seed=3, clip=clip).snapshot.random_idx
        for trained, clip in ((tats, 1), (other, 1), (tats, 2))
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, next_clip)


def test_nothing_is_dropped_when_looking(make: Callable[..., Path], video: torch.Tensor) -> None:
    deep = {"model.encoder.depth": 2}
    calm = open_trained(make("calm", "adamae", **deep))
    rough = open_trained(make("rough", "adamae", **deep, **{"model.encoder.drop_path_rate": 0.9}))
    for _ in range(2):  # a snapshot of the first look leaves the modules as training wants them
        seen, expected = look(rough, video, seed=0, clip=0), look(calm, video, seed=0, clip=0)
        np.testing.assert_array_equal(seen.error, expected.error)
        np.testing.assert_array_equal(seen.snapshot.visible_idx, expected.snapshot.visible_idx)
    assert torch.equal(mean_feature(rough, video), mean_feature(calm, video))


def test_a_clips_feature_is_the_mean_over_all_tokens(tats: Trained, video: torch.Tensor) -> None:
    with torch.no_grad():
        tokens = tats.method.autoencoder.encoder.eval()(patchify(video[None], GRID))[0]
    assert torch.allclose(mean_feature(tats, video), tokens.sum(0) / 32, atol=1e-6)


def test_the_nearest_by_hand() -> None:
    others = torch.tensor([[0.0, 1.0], [2.0, 0.0], [-1.0, 0.0], [1.0, 1.0], [5.0, 0.0]])
    found = nearest(torch.tensor([3.0, 0.0]), others, count=4)
    assert [row for row, _ in found] == [1, 4, 3, 0]  # of two equally near the first comes first
    assert [cosine for _, cosine in found] == pytest.approx([1, 1, 0.5**0.5, 0], abs=1e-9)
    assert len(nearest(torch.ones(2), others, count=9)) == 5


def test_places_of_tokens() -> None:
    grid = TokenGrid(time=3, height=2, width=5)
    assert [token_place(token_number(place, grid), grid) for place in ((0, 0, 0), (2, 1, 4), (1, 0, 3))] == [
        (0, 0, 0),
        (2, 1, 4),
        (1, 0, 3),
    ]
    assert token_number((1, 1, 2), grid) == 10 + 5 + 2
    with pytest.raises(ValueError, match=r"a token is time slot, row and column, below 3,2,5 for this .*, got 0,2,0"):
        token_number((0, 2, 0), grid)


def test_names_are_as_short_as_they_can_be(make: Callable[..., Path]) -> None:
    twins = [make("twin", steps=(4, 8)), make("twin", number="0002")]
    paths = [twins[0] / "checkpoints" / "step_00000004", *twins, make("alone"), make("random", "random")]
    names = ["twin 0001 step 4", "twin 0001 step 8", "twin 0002", "alone", "random 0001"]
    opened = open_together(paths, reserved=("random",))
    assert list(opened) == names
    assert [trained.step for trained in opened.values()] == [4, 8, 8, 8, 8]
    with pytest.raises(ValueError, match="a checkpoint was given twice: alone 0001 step 8; give each once"):
        open_together([paths[3], paths[3]])


def test_what_is_no_checkpoint(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make("alright")
    with pytest.raises(ValueError, match=r"is no folder of a run and no checkpoint: it has no run\.yaml"):
        open_trained(tmp_path)
    (folder / "checkpoints").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="checkpoints holds no checkpoint; let the run write its first one"):
        open_trained(folder)
    with pytest.raises(ValueError, match=r"lies apart from its run: there is no \S+run.yaml; give the run's folder"):
        open_trained(tmp_path / "moved" / "step_00000008")


def test_checkpoints_of_other_frames_are_not_mixed(make: Callable[..., Path]) -> None:
    paths = [make("near"), make("far", **{"data.frame_stride": 2})]
    with pytest.raises(ValueError, match=r"must take the same frames of a video, got Pace.*frame_stride=2.* look at"):
        open_together(paths)
