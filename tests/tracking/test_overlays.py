import matplotlib
import numpy as np
import pytest

from tats_ray.geometry import TokenGrid
from tats_ray.tracking.overlays import ColourScale, frame_tokens, heat_overlay, legend, paint, show_tokens

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


def test_paint_by_hand_on_a_scale_of_ones_own():
    white = np.full((8, 48, 48, 3), 255, dtype=np.uint8)
    values = np.full(36, np.nan)
    values[[0, 1, 2, 3]] = [0.0, 2.0, 4.0, 9.0]
    painted = paint(white, values, GRID, ColourScale("", 4.0))
    for token, share in ((0, 0.0), (1, 0.5), (2, 1.0), (3, 1.0)):  # above the top is the top
        colour = np.array(matplotlib.colormaps["inferno"](share)[:3]) * 255
        expected = np.broadcast_to(0.6 * colour + 0.4 * 255, (2, 16, 16, 3))
        np.testing.assert_allclose(painted[region(token)], expected, atol=0.51)  # rounding to a byte
    assert (painted[region(4)] == 255).all()


def test_tokens_without_a_number_keep_their_colours():
    video, values = clip(), np.ones(36)
    values[[5, 20]] = np.nan
    painted = paint(video, values, GRID, ColourScale("", 2.0))
    for token in range(36):
        assert (painted[region(token)] == video[region(token)]).all() == (token in (5, 20))


def test_a_scale_reaches_to_the_largest_and_to_two_at_least():
    assert ColourScale.over("a", [1.0, np.nan], [0.5]) == ColourScale("a", 2.0)
    assert ColourScale.over("a", [1.0, np.nan], [3.5, 0.1]).top == 3.5


def test_a_frame_is_drawn_inside_of_its_token_and_nowhere_else():
    video = clip()
    framed = frame_tokens(video, [14, 35], GRID, colour=(1, 2, 3))
    inner = np.zeros((8, 48, 48), dtype=bool)
    for token in (14, 35):
        inner[region(token)] = True
        slot, rows, columns = region(token)
        inner[slot, rows.start + 1 : rows.stop - 1, columns.start + 1 : columns.stop - 1] = False
    np.testing.assert_array_equal(framed[~inner], video[~inner])
    assert (framed[inner] == (1, 2, 3)).all()


def test_the_legend_goes_from_dark_to_bright():
    bar = legend(11)
    assert (bar.shape, bar.dtype) == ((11, 3), np.uint8)
    grey = np.full((8, 48, 48, 3), 128, dtype=np.uint8)
    for step, value in ((0, 0.0), (5, 1.0), (10, 2.0)):
        painted = paint(grey, np.full(36, value), GRID, ColourScale("", 2.0))
        np.testing.assert_array_equal(painted[0, 0, 0], bar[step])
