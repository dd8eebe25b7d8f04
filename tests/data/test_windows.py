"""Windows of long videos: numbers by hand, and the law that every frame is in exactly one of them."""

import hashlib

import numpy as np
import pytest

from tats_ray.data.decode import View, decode_views
from tats_ray.data.frames import Pace, frame_seconds
from tats_ray.data.manifest import VideoRecord
from tats_ray.data.probe import probe_record
from tats_ray.data.scaling import Crop
from tats_ray.data.source import VideoSource
from tats_ray.data.windows import cut, windows


def record_of(num_frames: int, fps: float, times: list[float] | None = None) -> VideoRecord:
    return VideoRecord("whole", "/a.mp4", 3, num_frames, fps, num_frames / fps, 64, 48, "/a.truth.npz", times=times)


@pytest.mark.parametrize(
    ("frames", "fps", "seconds", "expected"),
    [
        (100, 25, 1, [(0, 25), (1, 25), (2, 25), (3, 25)]),
        (100, 25, 1.5, [(0, 38), (1.52, 37), (3, 25)]),  # frame 37 begins at 1.48 s, before the cut
        (112, 25, 1, [(0, 25), (1, 25), (2, 25), (3, 37)]),  # a rest of 0.48 s belongs to the last
        (113, 25, 1, [(0, 25), (1, 25), (2, 25), (3, 25), (4, 13)]),  # one of 0.52 s is a window
        (100, 25, 2.7, [(0, 100)]),
        (100, 25, 60, [(0, 100)]),
        (90, 30, 0.1, [(number / 10, 3) for number in range(30)]),
    ],
)
def test_even_videos_by_hand(frames, fps, seconds, expected):
    found = windows(record_of(frames, fps), seconds)
    assert [(pytest.approx(window.start), window.num_frames) for window in found] == expected
    assert all(window.times is None and window.fps == fps and window.label == 3 for window in found)
    assert [window.duration for window in found] == [pytest.approx(count / fps) for _, count in expected]


def test_uneven_videos_by_hand():
    times = [0, 0.1, 0.5, 1.1, 1.2, 1.9, 4.1, 4.2, 4.8]  # nothing begins from 2 to 4
    first, second, third = windows(record_of(9, 8 / 4.8, times), 1)
    assert [window.start for window in (first, second, third)] == [0, 1.1, 4.1]
    assert [list(window.times) for window in (first, second, third)] == [
        [0, 0.1, 0.5],
        pytest.approx([0, 0.1, 0.8]),
        pytest.approx([0, 0.1, 0.7]),
    ]
    assert third.fps == pytest.approx(2 / 0.7)
    assert third.duration == pytest.approx(3 * 0.7 / 2)


def test_a_rest_after_a_gap_belongs_to_the_window_before():
    times = [0, 0.2, 0.4, 0.6, 0.8, 5.0]
    (only,) = windows(record_of(6, 5.0, times), 1)
    assert only.num_frames == 6


def test_every_frame_is_in_exactly_one_window():
    rng = np.random.default_rng(0)
    for _ in range(200):
        count, fps = int(rng.integers(1, 200)), float(rng.choice([10, 23.976, 25, 30, 59.94]))
        times = np.arange(count) / fps
        if rng.integers(2):
            times = np.concatenate([[0], np.cumsum(rng.exponential(1 / fps, count - 1) + 1e-3)])
        even = np.allclose(times, np.arange(count) / fps)
        record = record_of(count, fps if even else count / (times[-1] + 1), None if even else times.tolist())
        seconds = float(rng.uniform(0.05, 5))
        found = windows(record, seconds)
        rejoined = [window.start + frame_seconds(window, np.arange(window.num_frames)) for window in found]
        np.testing.assert_allclose(np.concatenate(rejoined), times, atol=1e-9)
        assert len({window.id for window in found}) == len(found)
        starts = [window.start for window in found]
        assert starts == sorted(starts)
        assert all(window.duration > 0 and window.fps > 0 for window in found)


def test_ids_tell_path_and_start_and_a_part_has_no_truth():
    whole = record_of(100, 25)
    first, *_, last = windows(whole, 1)
    assert first.id == whole.id
    assert last.id == hashlib.sha1(b"/a.mp4\0003.0").hexdigest()[:16]
    assert (first.truth, last.truth) == (None, None)
    assert windows(whole, 5) == [whole]  # a video that is not cut is what it was


@pytest.mark.parametrize(
    ("start", "stop", "frames"),
    [
        (0, 4, range(100)),
        (1, 2, range(25, 50)),  # frame 50 begins at 2 s
        (1.01, 2.01, range(25, 51)),  # frame 25 is on display until 1.04 s
        (1.09, 1.1, [27]),  # nothing begins within it
        (3.5, 4.4, range(87, 100)),  # the video ends at 4 s, after half of it
        (-0.1, 0.04, [0]),
        (3.28 - 3, 0.4, range(7, 10)),  # a little less than 0.28 in floats, where frame 7 begins
        (0, 1.08 - 1, range(2)),  # a little more than 0.08, where frame 2 begins
        (1, 1 + 1e-9, [25]),
    ],
)
@pytest.mark.parametrize("times", [None, [frame / 25 for frame in range(100)]])
def test_named_stretches_by_hand(start, stop, frames, times):
    record = record_of(100, 25, times)
    stretch = cut(record, start=start, stop=stop, name="a")
    seconds = stretch.start + frame_seconds(stretch, np.arange(stretch.num_frames))
    np.testing.assert_allclose(seconds, np.array(frames) / 25, atol=1e-9)
    assert stretch.duration == pytest.approx(len(frames) / 25)
    assert (stretch.label, stretch.truth, stretch.path) == (3, None, record.path)


def test_a_stretch_of_an_uneven_video_by_hand():
    stretch = cut(record_of(5, 2.5, [0, 0.1, 0.5, 1.1, 1.6]), start=0.4, stop=1.6, name="a")
    assert stretch.start == 0.1
    assert list(stretch.times) == pytest.approx([0, 0.4, 1.0])
    assert stretch.fps == pytest.approx(2 / 1.0)


def test_stretches_that_overlap_or_are_equal_have_ids_of_their_own():
    record = record_of(100, 25)
    cuts = [(0, 4, "a"), (0, 4, "b"), (0, 3, "a"), (1, 3, "a")]
    ids = [cut(record, start=start, stop=stop, name=name).id for start, stop, name in cuts]
    assert len({record.id, *ids}) == 5
    assert ids[0] == cut(record, start=0, stop=4, name="a").id


@pytest.mark.parametrize(("start", "stop"), [(4, 5), (3.5, 4.5), (60, 61)])
def test_a_stretch_whose_half_is_past_the_end_is_refused(start, stop):
    with pytest.raises(ValueError, match=rf"^n_1 is from {start} to {stop} s, and the video ends at 4 s$"):
        cut(record_of(100, 25), start=start, stop=stop, name="n_1")


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_no_length_at_all_is_refused(seconds):
    with pytest.raises(ValueError, match=r"window must be a positive number of seconds, got .*leave it out"):
        windows(record_of(10, 25), seconds)


def test_a_window_shows_its_own_frames(count_video, read_numbers, tmp_path):
    record = probe_record(VideoSource(str(count_video(tmp_path / "a.mp4", frames=60))), label=None)
    shown = []
    for window in windows(record, 1):
        times = Pace(num_frames=window.num_frames, frame_stride=1).times(window, 0)
        crop = Crop(0, 0, window.width, window.height)
        views = [View(times, crop)]
        shown += read_numbers(decode_views(window.source, views, frame_size=(window.width, window.height), size=64)[0])
    assert shown == list(range(60))
