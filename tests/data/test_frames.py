from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tats_ray.data.decode import Crop
from tats_ray.data.frames import Pace, center_crop, multiscale_crop
from tats_ray.data.manifest import VideoRecord


def make_record(num_frames=100, *, fps=25.0, width=340, height=256):
    return VideoRecord("0", "/video.mp4", None, num_frames, fps, num_frames / fps, width, height, None)


def starts_of(record, pace, *, views=1, draws=2000):
    rng = np.random.default_rng(0)
    return [pace.random_starts(record, views=views, rng=rng) for _ in range(draws)]


@pytest.mark.parametrize(
    ("count", "num_frames", "stride"), list(product([1, 5, 60, 61, 62, 100], [1, 4, 16], [1, 3, 4]))
)
def test_clips_of_native_frames_lie_within_their_video(count, num_frames, stride):
    record, pace = make_record(count), Pace(num_frames, frame_stride=stride)
    latest = count - ((num_frames - 1) * stride + 1)
    assert pace.latest_start(record) == latest
    starts = {start for (start,) in starts_of(record, pace)}
    assert starts == set(range(max(latest, 0) + 1))  # each fitting start, and no other; missed with p < 1e-6
    assert pace.center_start(record) in starts
    for start in (min(starts), max(starts)):
        frames = np.array(pace.times(record, start)) * 25
        assert frames.max() <= count - 1 + 1e-9
        assert set(np.diff(frames).round(9)) <= {stride} if latest >= 0 else np.all(np.diff(frames) >= 0)


def test_center_start_leaves_the_same_on_both_sides():
    start = Pace(16, frame_stride=4).center_start(make_record(100))
    assert (start, 100 - start - 61) == (19, 20)
    assert Pace(16, fps=10.0).center_start(make_record(100)) == pytest.approx((99 / 25 - 1.5) / 2)


def test_a_short_video_holds_its_last_frame():
    times = Pace(4, frame_stride=3).times(make_record(10, fps=20.0), 2)
    np.testing.assert_allclose(times, [0.1, 0.25, 0.4, 0.45], rtol=1e-12)
    times = Pace(4, fps=4.0).times(make_record(10, fps=20.0), 0.1)
    np.testing.assert_allclose(times, [0.1, 0.35, 0.45, 0.45], rtol=1e-12)


def test_a_short_video_begins_again():
    times = Pace(4, frame_stride=3).times(make_record(10, fps=20.0), 2, past_end="loop")
    np.testing.assert_allclose(times, [0.1, 0.25, 0.4, 0.05], rtol=1e-12)  # frames 2, 5, 8 and 11 - 10
    times = Pace(4, fps=4.0).times(make_record(10, fps=20.0), 0.1, past_end="loop")
    np.testing.assert_allclose(times, [0.1, 0.35, 0.1, 0.35], rtol=1e-12)  # it lasts half a second


def test_a_clip_of_a_rate_takes_seconds_whatever_the_videos_rate():
    pace = Pace(5, fps=8.0)  # spans half a second
    for fps in (12.5, 25.0, 60.0):
        record = make_record(100, fps=fps)
        assert pace.latest_start(record) == pytest.approx(99 / fps - 0.5)
        starts = [start for (start,) in starts_of(record, pace)]
        assert 0 <= min(starts) < 0.02 * max(starts)
        assert 0.98 * pace.latest_start(record) < max(starts) <= pace.latest_start(record)
        np.testing.assert_allclose(np.diff(pace.times(record, starts[0])), 1 / 8)


def test_uneven_frames_are_counted_one_by_one():
    record = replace(make_record(5), times=[0.0, 0.04, 0.4, 0.44, 2.0])
    np.testing.assert_allclose(Pace(3, frame_stride=2).times(record, 0), [0, 0.4, 2.0])
    np.testing.assert_allclose(Pace(3, fps=2.0).times(record, 0.5), [0.5, 1.0, 1.5])
    assert Pace(3, fps=2.0).latest_start(record) == pytest.approx(1.0)


def test_a_stretch_of_a_film_begins_at_its_start():
    record = replace(make_record(50), start=600.0)
    np.testing.assert_allclose(Pace(3, frame_stride=5).times(record, 10), [600.4, 600.6, 600.8])


def test_views_of_one_decode_begin_within_half_a_span_of_the_first():
    record = make_record(100)
    for pace, reach in ((Pace(16, frame_stride=2), 15), (Pace(11, fps=5.0), 1.0)):
        drawn = np.array(starts_of(record, pace, views=3))
        later = drawn[:, 1:] - drawn[:, :1]
        assert later.min() >= 0
        assert 0.9 * reach < later.max() <= reach
        assert drawn.max() <= pace.latest_start(record)
        assert len(set(later[:50].ravel())) > 5


def test_center_crop():
    assert center_crop(make_record(width=340, height=256)) == Crop(42, 0, 256, 256)
    assert center_crop(make_record(width=97, height=129)) == Crop(0, 16, 97, 97)


@pytest.mark.parametrize(("width", "height"), [(340, 256), (128, 170), (64, 64), (5, 3)])
def test_multiscale_crop_laws(width, height):
    scales, rng = (1.0, 0.875, 0.75, 0.66), np.random.default_rng(0)
    lengths = [max(1, int(min(width, height) * scale)) for scale in scales]
    crops = {multiscale_crop(make_record(width=width, height=height), scales=scales, rng=rng) for _ in range(3000)}
    for crop in crops:
        assert 0 <= crop.x <= crop.x + crop.width <= width
        assert 0 <= crop.y <= crop.y + crop.height <= height
        steps = [lengths.index(crop.width), lengths.index(crop.height)]
        assert abs(steps[0] - steps[1]) <= 1 or len(set(lengths)) < 4
    if width == 340:  # 10 shapes, each at 13 places; those as high as the frame have only 5
        free = [crop for crop in crops if crop.height < 256]
        assert len({(crop.width, crop.height) for crop in crops}) == 10
        assert len(free) == 13 * 8
        assert max(crop.x + crop.width for crop in crops) >= width - 4  # the lattice's step is rounded down
        assert len({(crop.x, crop.y) for crop in crops if crop.height == crop.width == 256}) == 5
