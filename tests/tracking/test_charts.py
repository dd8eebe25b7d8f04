"""Charts are small PNGs that hold what they were given, and leave nothing behind."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from tats_ray.tracking import charts
from tats_ray.tracking.charts import confusion_chart, curves_chart, interval_chart, spectrum_chart

MAX_BYTES = 300_000
ROOT = Path(__file__).parents[2]


def pixels(path: Path) -> np.ndarray:
    assert path.stat().st_size < MAX_BYTES
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def blue(picture: np.ndarray) -> int:
    """Pixels of the dark end of the scale of a confusion."""
    return int(((picture[..., 2] - picture[..., 0] > 60) & (picture[..., 0] < 40)).sum())


def names(count: int) -> list[str]:
    return [f"class {number} with a long name_and $dollars$ {'x' * (number % 9)}" for number in range(count)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures, instead of their files."""
    figures: list[Figure] = []
    monkeypatch.setattr(charts, "save", lambda figure, path: figures.append(figure))
    return figures


def axes_of(figure: Figure) -> Axes:
    return figure.axes[0]


def points(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


@pytest.mark.parametrize("classes", [2, 25, 60, 400])
def test_a_full_confusion_of_any_size_is_a_small_picture(classes: int, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 1000, (classes, classes))
    path = tmp_path / "new" / "confusion.png"
    confusion_chart(counts, names(classes), path, "A title of $ome length, " * 8)
    height, width, _ = pixels(path).shape
    assert height >= 400
    assert width >= 400


def test_what_is_right_and_what_is_not_look_different(tmp_path: Path) -> None:
    confusion_chart(np.eye(7, dtype=int) * 4, names(7), tmp_path / "right.png", "right")
    confusion_chart(np.ones((7, 7), dtype=int), names(7), tmp_path / "chance.png", "chance")
    assert blue(pixels(tmp_path / "right.png")) > 2 * blue(pixels(tmp_path / "chance.png"))


def test_a_class_without_videos_is_an_empty_row(tmp_path: Path) -> None:
    counts = np.eye(5, dtype=int) * 4
    counts[3] = 0
    confusion_chart(counts, names(5), tmp_path / "a.png", "a")
    pixels(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("counts", "count", "message"),
    [
        (np.ones((3, 4)), 3, r"confusion must be counts \[classes, classes\]"),
        (-np.ones((3, 3)), 3, "confusion must be counts .* at least 0"),
        (np.ones((0, 0)), 0, "confusion must be counts"),
        (np.ones((3, 3)), 2, "class_names must be 3, one for each class, got 2"),
    ],
)
def test_a_bad_confusion_is_refused(counts: np.ndarray, count: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_chart(counts, names(count), tmp_path / "a.png", "a")
    assert not (tmp_path / "a.png").exists()


def test_many_noisy_curves_stay_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    steps = np.arange(800).tolist()
    curves = {f"run {run} $": (steps, noise.random(800).tolist()) for run in range(40)}
    curves_chart(curves, tmp_path / "curves.png", xlabel="step", ylabel="loss", title="Loss")
    pixels(tmp_path / "curves.png")


def test_gaps_and_single_points_are_drawn(tmp_path: Path) -> None:
    curves = {"gap": ([0, 1, 2], [1.0, math.nan, 2.0]), "point": ([1], [1.5]), "none": ([], [])}
    curves_chart(curves, tmp_path / "with.png", xlabel="step", ylabel="loss", title="Loss")
    curves_chart({**curves, "point": ([], [])}, tmp_path / "without.png", xlabel="step", ylabel="loss", title="Loss")
    assert (pixels(tmp_path / "with.png") != pixels(tmp_path / "without.png")).any()


def test_a_spectrum_may_end_in_zeros(tmp_path: Path) -> None:
    spectrum_chart({"whole": [0.5, 0.3, 0.2], "collapsed": np.array([1.0, 0.0, 0.0])}, tmp_path / "a.png")
    pixels(tmp_path / "a.png")


def test_the_sign_of_an_interval_is_its_colour(tmp_path: Path) -> None:
    found = {}
    for name, row in {
        "better": (0.02, 0.01, 0.03),
        "worse": (-0.02, -0.03, -0.01),
        "open": (0.02, -0.01, 0.05),
    }.items():
        interval_chart({name: row}, tmp_path / f"{name}.png")
        picture = pixels(tmp_path / f"{name}.png")
        cold, warm = picture[..., 2] - picture[..., 0] > 80, picture[..., 0] - picture[..., 2] > 80
        found[name] = (bool(cold.any()), bool(warm.any()))
    assert found == {"better": (True, False), "worse": (False, True), "open": (False, False)}


def test_intervals_lie_from_top_to_bottom_beside_a_line_at_zero(drawn: list[Figure], tmp_path: Path) -> None:
    interval_chart({"first": (0.5, 0.25, 0.75), "second": (-0.5, -0.75, -0.25)}, tmp_path / "a.png")
    axes = axes_of(drawn[0])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    bottom, top = axes.get_ylim()
    assert top < 0 < 1 < bottom  # the first row, at 0, is above the second, at 1
    upright = [line for line in axes.lines if points(line) == ([0, 0], [0, 1])]
    assert len(upright) == 1


def test_counts_are_legible_on_their_cells(drawn: list[Figure], tmp_path: Path) -> None:
    confusion_chart(np.array([[9, 1], [0, 4]]), names(2), tmp_path / "a.png", "a")
    told = {text.get_position(): (text.get_text(), text.get_color()) for text in axes_of(drawn[0]).texts}
    assert told == {(0, 0): ("9", "white"), (1, 0): ("1", "black"), (1, 1): ("4", "white")}  # column, row


def test_the_most_frequent_confusions_are_listed_where_names_have_no_room(drawn: list[Figure], tmp_path: Path) -> None:
    counts = np.eye(61, dtype=int) * 50
    counts[3, 7], counts[8, 2] = 5, 6
    confusion_chart(counts, [f"class {number}" for number in range(61)], tmp_path / "a.png", "a")
    listed = next(axes for axes in drawn[0].axes if axes.get_title(loc="left") == "Most frequent confusions")
    lines = [line.split() for line in listed.texts[0].get_text().splitlines()]
    assert [line[-1] for line in lines] == ["(8)", "(2)", "(3)", "(7)"]  # the larger first, nothing that is right
    assert (lines[0][0], lines[2][0]) == ("6", "5")


def test_curves_hold_their_points(drawn: list[Figure], tmp_path: Path) -> None:
    curves_chart({"line": ([1, 2], [3, 4]), "point": ([5], [6])}, tmp_path / "a.png", xlabel="", ylabel="", title="")
    line, point = axes_of(drawn[0]).lines
    assert points(line) == ([1, 2], [3, 4])
    assert (line.get_marker(), point.get_marker()) == ("None", "o")
    assert to_rgb(line.get_color()) != to_rgb(point.get_color())


def test_a_spectrum_is_logarithmic_without_its_zeros(drawn: list[Figure], tmp_path: Path) -> None:
    spectrum_chart({"a": [0.75, 0.25, 0.0]}, tmp_path / "a.png")
    axes = axes_of(drawn[0])
    assert axes.get_yscale() == "log"
    np.testing.assert_equal(points(axes.lines[0]), ([1, 2, 3], [0.75, 0.25, np.nan]))


def test_infinite_and_empty_intervals_are_drawn(tmp_path: Path) -> None:
    rows = {"one seed": (0.1, -math.inf, math.inf), "equal": (0.0, 0.0, 0.0), "a" * 90: (0.0, -1.0, 1.0)}
    interval_chart(rows, tmp_path / "a.png", xlabel="top1", title="A title")
    pixels(tmp_path / "a.png")
    interval_chart({"equal": (0.0, 0.0, 0.0)}, tmp_path / "b.png")
    pixels(tmp_path / "b.png")


def test_bad_series_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match="curves must hold at least one series"):
        curves_chart({}, path, xlabel="", ylabel="", title="")
    with pytest.raises(ValueError, match=r"curves\['a'\] must have as many x as y, got 2 and 1"):
        curves_chart({"a": ([1, 2], [1])}, path, xlabel="", ylabel="", title="")
    with pytest.raises(ValueError, match=r"spectra\['a'\] must be a row of values with one above 0"):
        spectrum_chart({"a": [0.0, 0.0]}, path)
    with pytest.raises(ValueError, match="rows must hold at least one interval"):
        interval_chart({}, path)
    with pytest.raises(ValueError, match=r"rows\['a'\] must be a finite mean within its interval"):
        interval_chart({"a": (2.0, 0.0, 1.0)}, path)
    assert not path.exists()


def test_no_backend_is_chosen(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tats_ray.tracking.charts import spectrum_chart; "
        f"spectrum_chart({{'a': [1.0, 0.5]}}, Path({str(tmp_path / 'a.png')!r})); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr
