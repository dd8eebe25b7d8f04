import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tats_ray.data.batches import ClipBatch
from tats_ray.data.clips import ClipConfig, load_center_clip, load_clips
from tats_ray.data.decode import Crop
from tats_ray.data.probe import probe_record
from tats_ray.data.source import DecodeError, VideoSource

CONFIG = ClipConfig(num_frames=8, frame_stride=2, crop_size=32)


@pytest.fixture(scope="module")
def record(count_video, tmp_path_factory):
    return probe_record(
        VideoSource(str(count_video(tmp_path_factory.mktemp("clips") / "video.mp4", frames=40))), label=None
    )


def test_the_center_clip_shows_the_middle(record, read_numbers):
    clip = load_center_clip(record, CONFIG)
    assert read_numbers(clip.video) == [12, 14, 16, 18, 20, 22, 24, 26]  # (40 - 15) // 2 = 12
    assert (clip.times[0], clip.crop, clip.flipped, clip.held) == (12 / 25, Crop(0, 0, 64, 64), False, False)
    assert clip.video.shape == (8, 32, 32, 3)
    assert clip.video.dtype == np.uint8


def test_a_random_clip_is_a_function_of_its_generator(record, read_numbers):
    config = CONFIG.model_copy(update={"crop_scales": (1.0,)})  # the whole frame, so that the numbers can be read
    starts = set()
    for seed in range(20):
        clip, again = (load_clips(record, config, np.random.default_rng(seed))[0] for _ in range(2))
        assert np.array_equal(clip.video, again.video)
        start = round(clip.times[0] * 25)
        assert read_numbers(clip.video) == list(range(start, start + 16, 2))
        starts.add(start)
    assert len(starts) > 10


def test_views_of_one_decode_are_clips_of_their_own(record, read_numbers):
    config = CONFIG.model_copy(update={"crop_scales": (1.0,), "views_per_decode": 3})
    clips = load_clips(record, config, np.random.default_rng(3))
    starts = [round(clip.times[0] * 25) for clip in clips]
    assert [read_numbers(clip.video) for clip in clips] == [list(range(start, start + 16, 2)) for start in starts]
    assert len(set(starts)) > 1


def test_a_rate_resamples(record, read_numbers):
    config = ClipConfig(num_frames=4, frame_stride=None, fps=10.0, crop_size=32)
    clip = load_center_clip(record, config)
    # 39 / 25 s to the last frame, 0.3 s of clip: it begins at 0.63 s, frame 15.75; a quarter of a frame is forgiven.
    assert read_numbers(clip.video) == [16, 18, 21, 23]


def test_flips_mirror_every_second_clip(record):
    flipped = 0
    for seed in range(20):
        config = CONFIG.model_copy(update={"flip": True})
        clip, straight = (load_clips(record, config, np.random.default_rng(seed))[0] for config in (config, CONFIG))
        expected = straight.video[:, :, ::-1] if clip.flipped else straight.video
        assert np.array_equal(clip.video, expected)
        assert clip.video.flags.c_contiguous
        flipped += clip.flipped
    assert 3 <= flipped <= 17  # 20 fair coins leave this range once in 2,500 times; the seeds are fixed


def test_a_short_video_is_held_or_refused(record, read_numbers):
    config = CONFIG.model_copy(update={"frame_stride": 10})
    clip = load_center_clip(record, config)
    assert clip.held
    assert read_numbers(clip.video) == [0, 10, 20, 30, 39, 39, 39, 39]
    with pytest.raises(DecodeError, match=r"its 40 frames, 1.6 s, are fewer .*short_videos"):
        load_center_clip(record, config.model_copy(update={"short_videos": "refuse"}))


def test_a_short_video_begins_again(record, read_numbers):
    config = CONFIG.model_copy(update={"frame_stride": 10, "short_videos": "loop"})
    clip = load_center_clip(record, config)
    assert clip.held
    assert read_numbers(clip.video) == [0, 10, 20, 30, 0, 10, 20, 30]
    uneven = load_center_clip(record, config.model_copy(update={"frame_stride": 7}))
    assert read_numbers(uneven.video) == [0, 7, 14, 21, 28, 35, 2, 9]
    assert uneven.times == pytest.approx([number / 25 for number in (0, 7, 14, 21, 28, 35, 2, 9)])
    random = load_clips(record, config, np.random.default_rng(0))[0]
    assert random.times == pytest.approx([number / 25 for number in (0, 10, 20, 30)] * 2)  # crops hide the numbers
    long = load_center_clip(record, CONFIG.model_copy(update={"short_videos": "loop"}))
    assert np.array_equal(long.video, load_center_clip(record, CONFIG).video)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_frames": 0},
        {"frame_stride": 0},
        {"frame_stride": None},
        {"fps": 8.0},
        {"frame_stride": None, "fps": 0},
        {"crop_scales": (1.2,)},
        {"crop_scales": ()},
        {"flip": 1},
        {"strides": 4},
    ],
)
def test_the_configuration_refuses(fields):
    with pytest.raises(ValidationError):
        ClipConfig(**fields)


def test_a_batch_counts_its_clips_and_moves():
    batch = ClipBatch(torch.zeros(3, 2, 4, 4, 3, dtype=torch.uint8), row=torch.arange(3))
    moved = batch.to("meta")
    assert (len(batch), moved.video.device.type, moved.row.device.type) == (3, "meta", "meta")


@pytest.mark.parametrize(
    ("video", "row", "message"),
    [
        (torch.zeros(3, 2, 4, 4, 3), torch.arange(3), "video must be uint8"),
        (
            torch.zeros(3, 3, 2, 4, 4, dtype=torch.uint8),
            torch.arange(3),
            r"height, width, 3\], got .*\[3, 3, 2, 4, 4\]",
        ),
        (torch.zeros(3, 2, 4, 4, 3, dtype=torch.uint8), torch.arange(2), r"row must be int64 \[3\]"),
    ],
)
def test_a_batch_checks_its_shapes(video, row, message):
    with pytest.raises(ValueError, match=message):
        ClipBatch(video, row=row)
