import pytest

from tats_ray.data.clips import ClipConfig, load_center_clip, load_view_clips
from tats_ray.data.decode import Crop, decode_views
from tats_ray.data.frames import Pace
from tats_ray.data.manifest import VideoRecord
from tats_ray.data.probe import probe_record
from tats_ray.data.source import DecodeError, VideoSource
from tats_ray.data.views import segment_starts, view_crops


def make_record(num_frames=100, *, fps=25.0, width=340, height=256):
    return VideoRecord("0", "/video.mp4", None, num_frames, fps, num_frames / fps, width, height, None)


@pytest.mark.parametrize(
    ("num_frames", "segments", "starts"),
    [
        (12, 3, [0, 2, 5]),  # the picture in the docstring: 5 / 2 is rounded down
        (12, 1, [2]),  # the middle, as for validation
        (12, 2, [0, 5]),
        (107, 5, [0, 25, 50, 75, 100]),
        (110, 5, [0, 25, 51, 77, 103]),  # 103 k / 4 = 25.75, 51.5, 77.25
        (7, 3, [0, 0, 0]),  # fits exactly
        (3, 4, [0, 0, 0, 0]),  # shorter than a clip: the last frame will be held
    ],
)
def test_segments_are_evenly_spaced_whole_frames(num_frames, segments, starts):
    pace = Pace(4, frame_stride=2)  # spans 7 frames
    found = segment_starts(make_record(num_frames), pace, segments=segments)
    assert found == starts
    assert all(isinstance(start, int) for start in found)


def test_segments_at_a_rate_are_moments():
    pace = Pace(11, fps=10.0)  # spans 1 s
    record = make_record(101)  # the last frame begins at 4 s
    assert segment_starts(record, pace, segments=4) == pytest.approx([0, 1, 2, 3])
    assert segment_starts(record, pace, segments=1) == pytest.approx([1.5])
    assert segment_starts(make_record(20), pace, segments=2) == [0, 0]


def test_three_crops_go_from_end_to_end_of_the_longer_side():
    wide = make_record(width=341, height=256)  # 85 pixels longer
    assert view_crops(wide, crops=3) == [Crop(0, 0, 256, 256), Crop(42, 0, 256, 256), Crop(85, 0, 256, 256)]
    assert view_crops(wide, crops=1) == [Crop(42, 0, 256, 256)]
    upright = make_record(width=100, height=140)
    assert view_crops(upright, crops=3) == [Crop(0, y, 100, 100) for y in (0, 20, 40)]
    assert view_crops(make_record(width=64, height=64), crops=3) == [Crop(0, 0, 64, 64)] * 3


def test_other_counts_are_refused():
    with pytest.raises(ValueError, match="segments must be at least 1, got 0"):
        segment_starts(make_record(), Pace(4, frame_stride=1), segments=0)
    with pytest.raises(ValueError, match=r"crops must be 1 .* or 3 .*, got 2"):
        view_crops(make_record(), crops=2)  # pyright: ignore[reportArgumentType]


def test_views_are_decoded_segment_by_segment_in_one_pass(count_video, tmp_path, read_numbers):
    record = probe_record(VideoSource(str(count_video(tmp_path / "video.mp4", frames=40))), label=None)
    config = ClipConfig(num_frames=4, frame_stride=3, crop_size=32)
    calls = []

    def decode(source, views, **sizes):
        calls.append(len(views))
        return decode_views(source, views, **sizes)

    clips = load_view_clips(record, config, segments=3, crops=3, decode=decode)
    assert calls == [9]
    firsts = [0, 0, 0, 15, 15, 15, 30, 30, 30]  # 40 - 10 = 30 is the last start
    assert [read_numbers(clip.video) for clip in clips] == [[f, f + 3, f + 6, f + 9] for f in firsts]
    assert not any(clip.held or clip.flipped for clip in clips)
    (middle,) = load_view_clips(record, config, segments=1, crops=1)
    assert (middle.video == load_center_clip(record, config).video).all()


def test_views_of_a_short_video_are_held_or_refused(count_video, tmp_path, read_numbers):
    record = probe_record(VideoSource(str(count_video(tmp_path / "video.mp4", frames=6))), label=None)
    config = ClipConfig(num_frames=4, frame_stride=3, crop_size=32)
    clips = load_view_clips(record, config, segments=2, crops=1)
    assert [(clip.held, read_numbers(clip.video)) for clip in clips] == [(True, [0, 3, 5, 5])] * 2
    with pytest.raises(DecodeError, match="short_videos is 'refuse'"):
        load_view_clips(record, config.model_copy(update={"short_videos": "refuse"}), segments=2, crops=1)
