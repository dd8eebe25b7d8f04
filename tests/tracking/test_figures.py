import av
import numpy as np
import pytest
from PIL import Image

from tats_ray.geometry import TokenGrid
from tats_ray.tracking.figures import animate, labelled_rows, save_sheet
from tats_ray.tracking.overlays import ColourScale, heat_overlay, legend, show_tokens


def clip(seed: int = 0, *, frames: int = 8, side: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)


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


def test_an_animation_goes_on_below_when_a_line_is_full(tmp_path):
    rows = {str(level): np.full((1, 96, 96, 3), level, dtype=np.uint8) for level in (0, 60, 120, 180, 240)}
    animate(rows, tmp_path / "a.gif", fps=4, max_columns=3, colours=256)
    with Image.open(tmp_path / "a.gif") as gif:
        page = np.asarray(gif.convert("RGB")).astype(int)
    assert page.shape[1] == 12 + 3 * 100 - 4 + 12
    # From the lower left corner: a margin of 12, then the second line's frames, a label of 18, a margin, the first's.
    for bottom, levels in ((12, (180, 240)), (12 + 96 + 30, (0, 60, 120))):
        for column, level in enumerate(levels):
            top, left = page.shape[0] - bottom - 96, 12 + 100 * column
            assert abs(page[top : top + 96, left : left + 96] - level).max() <= 2  # one of 256 colours
    assert (page[-12 - 96 : -12, 212:] >= 250).all()


def test_an_mp4_has_the_pages_of_the_gif(tmp_path):
    rows = {"first": clip(frames=5), "second": clip(1, frames=5)}
    animate(rows, tmp_path / "deep/a.mp4", fps=8)
    animate(rows, tmp_path / "a.gif", fps=8)
    with av.open(str(tmp_path / "deep/a.mp4")) as container, Image.open(tmp_path / "a.gif") as gif:
        frames = list(container.decode(video=0))
        assert container.streams.video[0].average_rate == 8
        assert (len(frames), frames[0].width, frames[0].height) == (gif.n_frames, *gif.size)


def test_another_kind_of_animation_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.gif or \.mp4, got \S+\.avi"):
        animate({"a": clip()}, tmp_path / "a.avi", fps=8)


def test_a_scale_is_drawn_below_the_frames_and_moves_none_of_them(tmp_path):
    plain = np.asarray(labelled_rows({"a": clip(frames=8)}))
    sheet = np.asarray(labelled_rows({"a": clip(frames=8)}, footer=[ColourScale("relative error", 2.5), "a line"]))
    np.testing.assert_array_equal(sheet[: plain.shape[0] - 12, : plain.shape[1]], plain[:-12])
    bar = legend(160)
    rows = [row for row in range(len(sheet)) if (bar[80] == sheet[row]).all(-1).any()]
    assert len(rows) == 12  # the bar's height
    start = next(x for x in range(sheet.shape[1]) if (sheet[rows[0], x : x + 160] == bar).all())
    assert (sheet[rows[0] : rows[-1] + 1, start : start + 160] == bar).all()
    assert plain.shape[0] - 12 < rows[0] < rows[-1] < len(sheet) - 12


def test_a_long_footer_stays_on_the_paper(tmp_path):
    footer = ["word " * 30, ColourScale("word " * 30, 2)]
    sheet = np.asarray(labelled_rows({"a": clip(frames=1)}, footer=footer))
    animate({"a": clip(frames=1)}, tmp_path / "a.gif", fps=8, footer=footer)
    with Image.open(tmp_path / "a.gif") as gif:
        page = np.asarray(gif.convert("RGB"))
    for paper in (sheet, page):
        border = np.concatenate([paper[-8:].reshape(-1, 3), paper[:, -8:].reshape(-1, 3), paper[:, :8].reshape(-1, 3)])
        assert (border == 255).all()


@pytest.mark.parametrize(
    ("label", "as_wide_as"),  # of 16 characters a line, the widest line
    [
        ("paragliding_launch", "paragliding_"),
        ("query: paragliding_launch", "paragliding_"),
        ("query: clap_hands", "clap_hands"),  # whole where it fits
        ("a clip of 0.9993333333", "0.9993333333"),
    ],
)
def test_names_of_files_are_broken_between_their_parts_alone(label, as_wide_as):
    one, other = (labelled_rows({name: clip(frames=1)}) for name in (label, as_wide_as))
    assert one.width == other.width
