from itertools import product

import numpy as np
import pytest

from tats_ray.data.decode import Crop
from tats_ray.data.frames import (
    center_crop,
    center_start,
    clip_frames,
    clip_times,
    is_short,
    multiscale_crop,
    random_start,
    span_frames,
)
from tats_ray.data.manifest import VideoRecord


def make_record(num_frames=100, *, fps=25.0, width=340, height=256):
    return VideoRecord("0", "/video.mp4", None, num_frames, fps, num_frames / fps, width, height, None)


def test_span_by_hand():
    assert span_frames(16, frame_stride=4) == 61
    assert span_frames(1, frame_stride=9) == 1


@pytest.mark.parametrize(
    ("count", "num_frames", "stride"), list(product([1, 5, 60, 61, 62, 100], [1, 4, 16], [1, 3, 4]))
)
def test_clips_lie_within_their_video(count, num_frames, stride):
    record, shape = make_record(count), {"num_frames": num_frames, "frame_stride": stride}
    span = span_frames(num_frames, frame_stride=stride)
    assert is_short(record, **shape) == (count < span)
    rng = np.random.default_rng(0)
    starts = {random_start(record, **shape, rng=rng) for _ in range(2000)}
    assert starts == set(range(max(count - span, 0) + 1))  # each fitting start, and no other; missed with p < 1e-6
    assert center_start(record, **shape) in starts
    for start in (min(starts), max(starts)):
        frames = clip_frames(record, **shape, start_frame=start)
        assert frames.max() <= count - 1
        assert set(np.diff(frames)) <= {stride} if count >= span else np.all(np.diff(frames) >= 0)


def test_center_start_leaves_the_same_on_both_sides():
    record = make_record(100)
    start = center_start(record, num_frames=16, frame_stride=4)
    assert (start, 100 - start - 61) == (19, 20)


def test_a_short_video_holds_its_last_frame():
    record, shape = make_record(10, fps=20.0), {"num_frames": 4, "frame_stride": 3, "start_frame": 2}
    assert clip_frames(record, **shape).tolist() == [2, 5, 8, 9]
    np.testing.assert_allclose(clip_times(record, **shape), [0.1, 0.25, 0.4, 0.45], rtol=1e-12)


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
