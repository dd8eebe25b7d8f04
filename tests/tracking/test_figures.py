import matplotlib
import numpy as np
import pytest
from PIL import Image

from tats_ray.geometry import TokenGrid
from tats_ray.tracking.figures import animate, heat_overlay, labelled_rows, save_sheet, show_tokens

GRID = TokenGrid(time=4, height=3, width=3)


def clip(seed: int = 0, *, frames: int = 8, side: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)


def region(token: int) -> tuple[slice, slice, slice]:
    """Pixels of a token of GRID in an 8-frame 48-pixel clip, by the sentence in TokenGrid's docstring."""
    slot, row, column = token // 9, token % 9 // 3, token % 3
    return slice(2 * slot, 2 * slot + 2), slice(16 * row, 16 * row + 16), slice(16 * column, 16 * column + 16)


@pytest.mark.parametrize("tokens", [[], [0], [35], [14, 3, 22], list(range(36))])
def test_shown_tokens_keep_their_pixels_and_the_others_are_dark_and_grey(tokens):
    video = clip()
    shown = show_tokens(video, tokens, GRID)
    for token in range(36):
        if token in tokens:
            np.testing.assert_array_equal(shown[region(token)], video[region(token)])
        else:
            dimmed = shown[region(token)]
            assert dimmed.max() <= 0.3 * 255 + 1
            assert (dimmed == dimmed[..., :1]).all()


def test_a_single_hot_token_lights_its_region_and_nothing_else():
    video, token = clip(), 14
    lit = heat_overlay(video, np.eye(36)[token], GRID).astype(float)
    cold = heat_overlay(video, np.eye(36)[0], GRID).astype(float)
    differs = (lit != cold).any(-1)
    expected = np.zeros(differs.shape, dtype=bool)
    expected[region(token)] = expected[region(0)] = True
    np.testing.assert_array_equal(differs, expected)
    assert lit[region(token)].mean() > 2 * cold[region(token)].mean()


def test_heat_by_hand():
    white = np.full((8, 48, 48, 3), 255, dtype=np.uint8)
    values = np.ones(36)
    values[0], values[1] = 4.0, 0.0
    top, none = (np.array(matplotlib.colormaps["inferno"](x)[:3]) * 255 for x in (1.0, 0.0))
    heat = heat_overlay(white, values, GRID)
    np.testing.assert_allclose(heat[0, 0, 0], 0.6 * top + 0.4 * 255, atol=0.51)  # rounding to a byte
    np.testing.assert_allclose(heat[0, 0, 16], 0.6 * none + 0.4 * 255, atol=0.51)


def test_heat_knows_shares_and_not_their_sum():
    values = np.random.default_rng(1).random(36)
    np.testing.assert_array_equal(heat_overlay(clip(), values, GRID), heat_overlay(clip(), 7 * values, GRID))


def test_equal_values_are_middling():
    white = np.full((8, 48, 48, 3), 255, dtype=np.uint8)
    middle = np.array(matplotlib.colormaps["inferno"](0.5)[:3]) * 255
    np.testing.assert_allclose(heat_overlay(white, np.ones(36), GRID)[0, 0, 0], 0.6 * middle + 0.4 * 255, atol=0.51)


@pytest.mark.parametrize(
    "values", [np.ones(35), np.zeros(36), np.r_[-1, np.ones(35)], np.full(36, np.nan), np.ones((4, 9))]
)
def test_heat_of_no_distribution_is_refused(values):
    with pytest.raises(ValueError, match="token_values must"):
        heat_overlay(clip(), values, GRID)


def test_tokens_outside_the_grid_are_refused():
    with pytest.raises(ValueError, match=r"token_idx must lie in \[0, 36\), got 3 to 36"):
        show_tokens(clip(), [3, 36], GRID)


@pytest.mark.parametrize(
    "draw", [lambda video: heat_overlay(video, np.ones(36), GRID), lambda v: show_tokens(v, [0], GRID)]
)
def test_a_video_that_does_not_fit_is_refused(draw):
    with pytest.raises(ValueError, match="7 frames of 48x48 pixels does not divide"):
        draw(clip(frames=7))
    with pytest.raises(ValueError, match="video must be uint8"):
        draw(clip().astype(np.float32))


def test_a_sheet_shows_every_second_frame_enlarged_and_unchanged():
    rows = {"original": clip(0, frames=16), "prediction": clip(1, frames=16)}
    sheet = np.asarray(labelled_rows(rows, title="step 120"))
    for number, video in enumerate(rows.values()):
        for column in range(8):
            # From the lower right corner: a margin of 12, then frames of 96 with gaps of 4.
            bottom, right = sheet.shape[0] - 12 - 100 * (1 - number), sheet.shape[1] - 12 - 100 * (7 - column)
            cell = sheet[bottom - 96 : bottom, right - 96 : right]
            np.testing.assert_array_equal(cell, video[2 * column].repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(("frames", "shown"), [(1, 1), (4, 4), (8, 8), (9, 5), (16, 8), (20, 7), (64, 8)])
def test_a_sheet_has_at_most_eight_columns(frames, shown):
    rows = {"a": clip(frames=frames, side=8)}
    widths = [labelled_rows(rows, scale=12, max_columns=n).width for n in (8, 1)]
    assert widths[0] - widths[1] == 100 * (shown - 1)


def test_a_long_label_is_wrapped():
    long, wide = (labelled_rows({label: clip()}).width for label in ("prediction with the true statistics", "M" * 16))
    assert long < wide


def test_a_long_title_and_a_long_label_stay_on_the_paper():
    sheet = np.asarray(labelled_rows({"prediction with the true patch statistics": clip(frames=1)}, title="step " * 20))
    border = np.concatenate([sheet[:8].reshape(-1, 3), sheet[:, -8:].reshape(-1, 3), sheet[:, :8].reshape(-1, 3)])
    assert (border == 255).all()


@pytest.mark.parametrize(
    "rows", [{}, {"a": clip(), "b": clip(frames=4)}, {"a": clip()[0]}, {"a": clip()[:0]}, {"a": clip() / 255}]
)
def test_rows_that_do_not_belong_together_are_refused(rows, tmp_path):
    with pytest.raises(ValueError, match="rows"):
        labelled_rows(rows)
    with pytest.raises(ValueError, match="rows"):
        animate(rows, tmp_path / "a.gif", fps=8)


def test_a_saved_sheet_is_the_sheet(tmp_path):
    save_sheet({"a": clip()}, tmp_path / "pictures/step_120.png", title="step 120")
    with Image.open(tmp_path / "pictures/step_120.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(labelled_rows({"a": clip()}, title="step 120")))


def natural_clip(frames: int = 16, side: int = 96) -> np.ndarray:
    """A textured picture under a moving camera, about as hard to compress as a film."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize(
        (160, 160), Image.Resampling.BICUBIC
    )
    scene = np.asarray(coarse, dtype=float) + rng.normal(0, 6, (160, 160, 3))
    return np.stack([scene[t : t + side, 2 * t : 2 * t + side] for t in range(frames)]).clip(0, 255).astype(np.uint8)


def test_an_animation_has_every_frame_and_stays_small(tmp_path):
    video, grid = natural_clip(), TokenGrid(time=8, height=12, width=12)
    rng = np.random.default_rng(0)
    rows = {
        "original": video,
        "probability": heat_overlay(video, rng.random(grid.num_tokens), grid),
        "drawn by TATS": show_tokens(video, rng.permutation(grid.num_tokens)[:115], grid),
        "drawn at random": show_tokens(video, rng.permutation(grid.num_tokens)[:115], grid),
    }
    animate(rows, tmp_path / "pictures/a.gif", fps=8)
    assert (tmp_path / "pictures/a.gif").stat().st_size < 300_000
    with Image.open(tmp_path / "pictures/a.gif") as gif:
        assert (gif.n_frames, gif.info["loop"], gif.info["duration"]) == (16, 0, 120)  # 125 ms, in units of 10


def test_an_animation_shows_each_video_in_its_panel(tmp_path):
    black, grey = np.zeros((2, 96, 96, 3), dtype=np.uint8), np.full((2, 96, 96, 3), 128, dtype=np.uint8)
    black[1] = 255
    animate({"first": black, "second": grey}, tmp_path / "a.gif", fps=4)
    with Image.open(tmp_path / "a.gif") as gif:
        for number, level in enumerate((0, 255)):
            gif.seek(number)
            page = np.asarray(gif.convert("RGB")).astype(int)
            panels = page[-12 - 96 : -12]
            assert abs(panels[:, 12:108] - level).max() <= 8  # one of 64 colours
            assert abs(panels[:, 112:208] - 128).max() <= 8


@pytest.mark.parametrize("fps", [0, -1, 51])
def test_a_pace_no_viewer_plays_is_refused(fps, tmp_path):
    with pytest.raises(ValueError, match=r"fps must lie in \(0, 50\]"):
        animate({"a": clip()}, tmp_path / "a.gif", fps=fps)
