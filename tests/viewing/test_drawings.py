"""What each picture shows of a clip, from looks that are made by hand."""

from pathlib import Path

import numpy as np
import pytest

from tats_ray.geometry import TokenGrid
from tats_ray.methods.base import Snapshot
from tats_ray.tracking.figures import animate, save_sheet
from tats_ray.tracking.overlays import ColourScale, paint, show_tokens
from tats_ray.viewing.drawings import (
    draw_all,
    draw_error,
    draw_path,
    draw_policy,
    draw_reconstruction,
    draw_tokens,
    shown_side,
)
from tats_ray.viewing.look import AttentionPath, Look

GRID = TokenGrid(time=2, height=2, width=2)
SHOWN = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def make_look(
    *, side: int = 8, policy: bool = True, critic: float | None = None, path: int | None = None, error: float = 1.0
) -> Look:
    video = np.random.default_rng(side).integers(0, 256, (4, side, side, 3), dtype=np.uint8)
    snapshot = Snapshot(
        video=video,
        grid=GRID,
        random_idx=np.array([0, 5]),
        visible_idx=np.array([1, 6]),
        target_idx=None,
        probability=np.linspace(0.05, 0.2, 8) if policy else None,
        prediction=255 - video,
        restored=video // 2,
    )
    errors = np.full(8, error)
    errors[[0, 5]] = np.nan
    weight = np.array([0.1, 0.2, 0.6, 0.1, 0.7, 0.1, 0.1, 0.1])
    return Look(
        snapshot=snapshot,
        error=errors,
        critic=None if critic is None else np.full(8, critic),
        path=None if path is None else AttentionPath(token=path, weight=weight),
    )


def region(token: int) -> tuple[slice, slice, slice]:
    slot, row, column = token // 4, token % 4 // 2, token % 2
    return slice(2 * slot, 2 * slot + 2), slice(16 * row, 16 * row + 16), slice(16 * column, 16 * column + 16)


def test_tokens_of_each_sampler_beside_random_ones() -> None:
    rows = draw_tokens(SHOWN, {"one": make_look(), "fixed": make_look(policy=False)}).rows
    assert list(rows) == ["clip", "random: tokens", "one: tokens", "one: probability", "fixed: tokens"]
    np.testing.assert_array_equal(rows["random: tokens"], show_tokens(SHOWN, [0, 5], GRID))
    np.testing.assert_array_equal(rows["fixed: tokens"], show_tokens(SHOWN, [1, 6], GRID))


def test_policies_are_on_one_scale_relative_to_uniform() -> None:
    drawing = draw_policy(SHOWN, {"one": make_look(), "fixed": make_look(policy=False)})
    assert drawing is not None
    assert list(drawing.rows) == ["clip", "one: policy"]
    (scale,) = drawing.footer
    assert isinstance(scale, ColourScale)
    assert scale.top == 2  # 8 tokens of .2 at most are 1.6 times uniform, below the least top
    expected = paint(SHOWN, 8 * np.linspace(0.05, 0.2, 8), GRID, scale)
    np.testing.assert_array_equal(drawing.rows["one: policy"], expected)


def test_error_and_critic_share_a_scale_and_visible_tokens_are_unmarked() -> None:
    drawing = draw_error(SHOWN, {"one": make_look(critic=3.0, error=1.5), "other": make_look(error=2.5)})
    assert list(drawing.rows) == ["clip", "one: error", "one: critic", "other: error"]
    scale = drawing.footer[0]
    assert isinstance(scale, ColourScale)
    assert scale.top == 3
    error = drawing.rows["one: error"]
    for token in range(8):
        assert (error[region(token)] == SHOWN[region(token)]).all() == (token in (0, 5))
    np.testing.assert_array_equal(error[region(1)], paint(SHOWN, np.full(8, 1.5), GRID, scale)[region(1)])
    np.testing.assert_array_equal(drawing.rows["one: critic"], paint(SHOWN, np.full(8, 3.0), GRID, scale))


def test_three_rows_of_a_reconstruction_of_models_of_other_sizes() -> None:
    looks = {"small": make_look(side=8), "large": make_look(side=16)}
    rows = draw_reconstruction(SHOWN, looks).rows
    assert list(rows) == ["original", *(f"{name}: {what}" for name in looks for what in ROWS)]
    assert {video.shape for video in rows.values()} == {(4, 16, 16, 3)}
    small = looks["small"].snapshot
    np.testing.assert_array_equal(rows["original"], small.video.repeat(2, 1).repeat(2, 2))
    np.testing.assert_array_equal(rows["small: prediction alone"], (255 - small.video).repeat(2, 1).repeat(2, 2))
    np.testing.assert_array_equal(rows["large: with true patch statistics"], looks["large"].snapshot.restored)


ROWS = ("prediction alone", "with true patch statistics")


def test_the_path_marks_who_looks_and_where_it_looks_most() -> None:
    drawing = draw_path(SHOWN, {"one": make_look(path=5), "other": make_look()})
    assert drawing is not None
    assert list(drawing.rows) == ["clip", "one: path of 1,0,1"]
    scale = drawing.footer[0]
    assert isinstance(scale, ColourScale)
    assert scale.top == pytest.approx(2.8)  # .7 over an even share of a quarter
    painted = paint(SHOWN, make_look(path=5).path.weight * 4, GRID, scale)  # type: ignore[union-attr]
    marked = (drawing.rows["one: path of 1,0,1"] != painted).any(-1)
    corners = [bool(marked[region(token)][0, 0, 0]) for token in range(8)]
    assert corners == [token in (2, 4, 5) for token in range(8)]
    colours = [tuple(drawing.rows["one: path of 1,0,1"][region(token)][0, 0, 0]) for token in (2, 4, 5)]
    assert colours == [(255, 255, 255), (255, 255, 255), (0, 229, 255)]


def test_what_no_checkpoint_has_is_not_drawn(tmp_path: Path) -> None:
    plain, full = {"one": make_look(policy=False)}, {"one": make_look(critic=1.0, path=0)}
    assert list(draw_all(SHOWN, plain)) == ["tokens", "reconstruction", "error"]
    drawings = draw_all(SHOWN, full)
    assert list(drawings) == ["tokens", "policy", "reconstruction", "error", "path"]
    for name, drawing in drawings.items():
        save_sheet(drawing.rows, tmp_path / f"{name}.png", footer=drawing.footer)
        animate(drawing.rows, tmp_path / f"{name}.gif", fps=8, footer=drawing.footer)


@pytest.mark.parametrize(
    ("sides", "shown"), [((4, 4), 96), ((14, 14), 112), ((28, 28), 224), ((8, 4), 96), ((5, 3), 105), ((1, 1), 96)]
)
def test_frames_are_shown_at_a_size_that_all_grids_divide(sides: tuple[int, int], shown: int) -> None:
    assert shown_side(sides) == shown
