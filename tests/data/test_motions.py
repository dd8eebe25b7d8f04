"""Synthetic videos whose class is how their movers move, or in which order, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from tats_ray.data.listing import list_sources
from tats_ray.data.synthetic import CLASSES, LIST, MOTIONS, SpriteTracks, SyntheticConfig, draw_clip, make_videos
from tats_ray.data.synthetic_events import event_begins, event_path

CONFIG = SyntheticConfig(frames=24, size=64, motions=6)


def movers(motion: int, seed: int, *, frames: int) -> list[np.ndarray]:
    """Return the centres of the movers of one video, ``[frames, 2]`` each."""
    config = CONFIG.model_copy(update={"frames": frames})
    _, tracks = draw_clip(np.random.default_rng(seed), config, label=motion)
    return [np.stack([tracks.x[:, s], tracks.y[:, s]], axis=1) for s in np.flatnonzero(tracks.moving)]


def turning(path: np.ndarray) -> float:
    """Return the mean turn from step to step: positive is clockwise on a screen, where rows count downwards."""
    step = np.diff(path, axis=0)
    return float(np.mean(step[:-1, 0] * step[1:, 1] - step[:-1, 1] * step[1:, 0]))


@pytest.mark.parametrize("frames", [24, 120])
@pytest.mark.parametrize("seed", range(4))
def test_movers_move_as_their_class_says(seed: int, frames: int) -> None:
    for motion, (x, y) in enumerate([(-1, 0), (1, 0), (0, -1), (0, 1)]):
        for path in movers(motion, seed, frames=frames):
            along, across = path @ np.array([x, y]), path @ np.array([y, x])
            assert np.diff(along).min() > 0.1  # never back: the order of two frames tells the class
            assert np.ptp(across) < 1e-3
            assert path.min() > 0
            assert path.max() < CONFIG.size
    assert all(turning(path) > 0 for path in movers(4, seed, frames=frames))
    assert all(turning(path) < 0 for path in movers(5, seed, frames=frames))


def test_labels_are_listed_as_the_index_reads_them(tmp_path: Path) -> None:
    paths = make_videos(tmp_path, CONFIG.model_copy(update={"num_videos": 6, "motions": 3, "frames": 2}))
    listed = list_sources(tmp_path / LIST)
    assert [(Path(source.path), label) for source, label in listed] == [
        (path.absolute(), number % 3) for number, path in enumerate(paths)
    ]
    assert (tmp_path / CLASSES).read_text().split() == list(MOTIONS[:3])
    assert SpriteTracks.load(paths[0].with_suffix(".truth.npz")).moving.any()


def test_without_classes_nothing_is_listed(tmp_path: Path) -> None:
    make_videos(tmp_path, SyntheticConfig(num_videos=1, frames=2))
    assert not (tmp_path / LIST).exists()


@pytest.mark.parametrize("seed", range(4))
def test_events_differ_in_their_order_alone(seed: int) -> None:
    config = SyntheticConfig(frames=128, size=64, events=True)
    first, second = (draw_clip(np.random.default_rng(seed), config, label=label)[1] for label in (0, 1))
    assert np.array_equal(first.radius, second.radius)
    for tracks, (early, late) in ((first, ("x", "y")), (second, ("y", "x"))):
        moves = {axis: np.abs(np.diff(getattr(tracks, axis), axis=0)) > 1e-4 for axis in "xy"}  # [frames - 1, sprites]
        assert not moves["x"][:, ~tracks.moving].any()
        for sprite in np.flatnonzero(tracks.moving):
            before, after = (np.flatnonzero(moves[axis][:, sprite]) for axis in (early, late))
            assert len(before)
            assert len(after)
            assert before.max() < 48
            assert after.min() - before.max() >= 32  # no clip of 32 frames has a part of both
        for axis in "xy":
            path = getattr(tracks, axis)
            assert np.abs(path - path[64]).max() > 0.15 * config.size
            assert np.abs(np.diff(path, axis=0)).max() < 0.3 * np.pi / 16 * config.size + 1e-3  # without a jump
            assert np.array_equal(path[0], path[64])  # it comes back
            assert np.array_equal(path[-1], path[64])
            assert (path - tracks.radius).min() >= -1e-3
            assert (path + tracks.radius).max() <= config.size + 1e-3


def lead_of_rows(video: np.ndarray) -> float:
    """By how much change along rows comes before change along columns, of pixels alone."""
    grey = video.astype(np.float32).mean(3)
    change = np.diff(grey, axis=0)[:, :-1, :-1]
    slopes = (np.diff(grey, axis=2)[1:, :-1], np.diff(grey, axis=1)[1:, :, :-1])
    along = [np.abs(change * slope).mean((1, 2)) for slope in slopes]
    lead = along[0] / along[0].mean() - along[1] / along[1].mean()
    return float(lead[:64].sum() - lead[64:].sum())


def test_the_order_of_events_is_in_the_pixels() -> None:
    config = SyntheticConfig(frames=128, size=64, events=True)
    for seed in range(6):
        first, second = (draw_clip(np.random.default_rng(seed), config, label=label)[0] for label in (0, 1))
        assert lead_of_rows(first) > lead_of_rows(second)


def test_events_are_a_quarter_of_the_video_apart() -> None:
    first, second = event_begins_of(500).T
    assert 0 <= first.min() < 1
    assert second.max() <= 128 - 16  # and they are over when it is
    assert 32 <= (second - first).min() - 16 < 36


def test_a_swing_begins_and_ends_gently() -> None:
    begins = np.array([16.0, 96.0])
    path = event_path(np.random.default_rng(0), frames=128, size=64, radius=8, label=0, begins=begins)
    for axis, begin in ((0, 16), (1, 96)):
        away = np.abs(path[begin : begin + 17 : 2, axis] - path[0, axis])
        gentle = np.array([0, 0.1464, 0.5, 0.8536, 1, 0.8536, 0.5, 0.1464, 0])  # squares of sines of n pi / 8
        assert away == pytest.approx(gentle * away[4], abs=1e-3 * away[4])


def event_begins_of(draws: int) -> np.ndarray:
    return np.stack([event_begins(np.random.default_rng(seed), frames=128) for seed in range(draws)])


def test_events_are_listed_in_turn(tmp_path: Path) -> None:
    paths = make_videos(tmp_path, SyntheticConfig(num_videos=3, frames=32, size=32, events=True))
    assert [label for _, label in list_sources(tmp_path / LIST)] == [0, 1, 0]
    assert (tmp_path / CLASSES).read_text().split() == ["horizontal-first", "vertical-first"]
    assert len(paths) == 3


def test_events_are_the_only_classes() -> None:
    with pytest.raises(ValidationError, match="the classes are events or motions, got motions=2 as well"):
        SyntheticConfig(events=True, motions=2)
    with pytest.raises(ValidationError, match="two events need 32 frames or more, got frames=31"):
        SyntheticConfig(events=True, frames=31)
