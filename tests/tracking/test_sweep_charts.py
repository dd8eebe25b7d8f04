"""Charts of a sweep: where values lie, and files that stay small."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tats_ray.tracking.knob_scale import Scale
from tats_ray.tracking.sweep_charts import Dot, coordinates_chart, cost_chart, knobs_chart


def test_numbers_lie_by_size() -> None:
    scale = Scale.of([0.9, 0.75, 0.8], logarithmic=False)
    assert scale.kind == "linear"
    assert [scale.position(value) for value in (0.75, 0.8, 0.9)] == pytest.approx([0, 1 / 3, 1])
    assert list(scale.ticks) == pytest.approx([0, 1 / 3, 1])
    assert list(scale.ticks.values()) == ["0.75", "0.8", "0.9"]


@pytest.mark.parametrize(("values", "asked"), [([1e-3, 1e-2, 1e-1], False), ([1e-2, 2e-2, 4e-2], True)])
def test_rates_lie_by_their_logarithm(values: list[float], *, asked: bool) -> None:
    scale = Scale.of(values, logarithmic=asked)
    assert scale.kind == "log"
    assert [scale.position(value) for value in values] == pytest.approx([0, 0.5, 1])


def test_zero_has_no_logarithm() -> None:
    assert Scale.of([0.0, 1e-3, 1.0], logarithmic=True).kind == "linear"


def test_a_list_of_values_has_a_place_for_each() -> None:
    """Each of a few values comes in several configurations."""
    scale = Scale.of([8, 1, 2, 1, 8, 2], logarithmic=False)
    assert (scale.kind, scale.values) == ("named", [1, 2, 8])
    assert [scale.position(value) for value in (1, 2, 8)] == pytest.approx([1 / 6, 0.5, 5 / 6])


def test_names_nothing_and_truth_are_categories() -> None:
    scale = Scale.of(["tats", None, 0.15, True, [0.9, 0.95]], logarithmic=True)
    assert scale.kind == "named"
    assert list(scale.ticks.values()) == ["null", "0.15", "true", "(0.9, 0.95)", "tats"]


def test_ticks_of_values_that_lie_together_are_round() -> None:
    drawn = [0.214, 0.324, 0.531, 0.588, 0.606, 0.647, 0.744, 0.996]
    scale = Scale.of(drawn, logarithmic=True)
    assert list(scale.ticks.values()) == ["0.3", "0.5", "0.7"]
    apart = Scale.of([0.1, 0.2, 0.4], logarithmic=True)
    assert list(apart.ticks.values()) == ["0.1", "0.2", "0.4"]


def test_ticks_of_many_values_are_round() -> None:
    draw = random.Random(0)
    rates = Scale.of([10 ** draw.uniform(-4, -1) for _ in range(50)], logarithmic=True)
    assert {"0.001", "0.01"} <= set(rates.ticks.values()) <= {"0.0003", "0.001", "0.003", "0.01", "0.03"}
    shares = Scale.of([draw.uniform(0.11, 0.98) for _ in range(50)], logarithmic=False)
    assert list(shares.ticks.values()) == ["0.2", "0.4", "0.6", "0.8"]
    evenly = Scale.of([number / 10 for number in range(10)], logarithmic=False)  # as many numbers would overlap
    assert list(evenly.ticks.values()) == ["0", "0.25", "0.5", "0.75"]
    decades = Scale.of([10 ** draw.uniform(-6, -1) for _ in range(50)], logarithmic=True)
    assert {"0.0001", "0.001", "0.01"} <= set(decades.ticks.values()) <= {"1e-05", "0.0001", "0.001", "0.01"}


def many(count: int) -> list[Dot]:
    draw = random.Random(0)
    return [
        Dot(
            {f"a.{knob}": draw.choice([1, 2, "three", None]) if knob % 2 else draw.uniform(0, 1) for knob in range(9)},
            1e9 if number == 7 else draw.gauss(0.6, 0.1),
            best=number == 3,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 200])
def test_files_are_small_whatever_is_drawn(count: int, tmp_path: Path) -> None:
    dots = many(count)
    knobs = list(dots[0].knobs)
    options: dict[str, Any] = {"knobs": knobs, "metric": "m$etric/loss"}
    knobs_chart(dots, tmp_path / "knobs.png", **options)
    coordinates_chart(dots, tmp_path / "coordinates.png", mode="min", **options)
    lines = [(f"name {number // 3}", ([1e12, 2e12], [1.0, 0.5 + number / 100])) for number in range(count)]
    cost_chart(lines, tmp_path / "cost.png", metric="loss")
    for path in tmp_path.iterdir():
        assert 1_000 < path.stat().st_size < 300_000, path
        assert Image.open(path).width >= 400


def test_a_value_far_beyond_does_not_squash_the_others(tmp_path: Path) -> None:
    """Without what is far beyond, the picture is the same but for its triangle."""
    dots = [Dot({"a": float(number)}, 0.5 + number / 10) for number in range(9)]
    for name, more in (("near", []), ("far", [Dot({"a": 4.0}, 1e9)])):
        knobs_chart([*dots, *more], tmp_path / name, knobs=["a"], metric="m")
    near, far = (np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("near", "far"))
    assert 0 < (near != far).any(-1).mean() < 0.001


def test_there_must_be_something_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 0 and 1"):
        knobs_chart([], tmp_path / "a.png", knobs=["a"], metric="m")
    with pytest.raises(ValueError, match="got 1 and 0"):
        coordinates_chart([Dot({}, 1.0)], tmp_path / "a.png", knobs=[], metric="m", mode="max")
    with pytest.raises(ValueError, match="got none"):
        cost_chart([], tmp_path / "a.png", metric="m")
