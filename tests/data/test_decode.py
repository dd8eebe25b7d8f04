import pickle
from fractions import Fraction

import av
import numpy as np
import pytest

from tats_ray.data import decode
from tats_ray.data.decode import Crop, View, decode_views
from tats_ray.data.source import DecodeError, VideoSource

WHOLE = Crop(0, 0, 64, 64)


def decode_frames(path, *, times, crop, size):
    """Decode one view of a file whose frames are as large as the crop says, or 64 by 64."""
    frame_size = (max(64, crop.x + crop.width), max(64, crop.y + crop.height)) if crop.x == 0 else (64, 64)
    return decode_views(VideoSource(str(path)), [View(tuple(times), crop)], frame_size=frame_size, size=size)[0]


NTSC = Fraction(30000, 1001)
H264 = {"preset": "veryfast", "crf": "18"}

FILES = {
    "b-frames.mp4": {"options": H264 | {"bf": "3"}},
    "long-gop.mp4": {"gop": 250, "options": H264 | {"bf": "3"}},
    "open-gop.mp4": {"options": H264 | {"bf": "3", "x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0"}},
    "ntsc.mp4": {"rate": NTSC, "options": H264},
    "milliseconds.mkv": {"rate": NTSC, "options": H264 | {"bf": "2"}},  # the clock cannot count 1001/30000 s
    "late-start.mkv": {"ticks": range(100, 160), "options": H264},
    "start-at-1.4s.ts": {"options": H264 | {"bf": "2"}},
    "mpeg4.avi": {"codec": "mpeg4"},  # one tick of the clock is one frame
    "mpeg4-b-frames.avi": {"codec": "mpeg4", "options": {"bf": "2"}},  # time stamps of decoding only
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "vp9.webm": {"codec": "libvpx-vp9", "gop": 30, "frames": 30, "options": {"cpu-used": "8", "deadline": "realtime"}},
}


@pytest.fixture(scope="module", params=FILES)
def numbered(request, count_video, tmp_path_factory):
    """A numbered file, its frame rate, and its numbers as read from a decode from beginning to end."""
    settings = FILES[request.param]
    path = count_video(tmp_path_factory.mktemp("numbered") / request.param, **settings)
    return path, settings.get("rate", Fraction(25)), len(settings.get("ticks", range(settings.get("frames", 60))))


def test_time_of_frame_gives_exactly_that_frame(numbered, read_numbers):
    path, rate, count = numbered
    with av.open(str(path)) as container:
        images = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert read_numbers(images) == list(range(count))  # the file itself is as intended
    whole = decode_frames(path, times=[n / float(rate) for n in range(count)], crop=WHOLE, size=64)
    assert read_numbers(whole) == list(range(count))
    for start in range(count):
        wanted = [start, min(start + 5, count - 1), count - 1]
        video = decode_frames(path, times=[n / float(rate) for n in wanted], crop=WHOLE, size=64)
        assert np.array_equal(video, whole[wanted])  # nothing is damaged where decoding began in the middle


def test_past_the_end_the_last_frame_is_held(numbered, read_numbers):
    path, rate, count = numbered
    video = decode_frames(path, times=[(count - 2) / float(rate), 100, 200], crop=WHOLE, size=64)
    assert read_numbers(video) == [count - 2, count - 1, count - 1]
    assert np.array_equal(video[1], video[2])


def test_variable_rate_shows_the_frame_on_display(count_video, read_numbers, tmp_path):
    path = count_video(tmp_path / "vfr.mp4", ticks=[0, 1, 2, 10, 11, 40, 41, 42], gop=3, options=H264)
    wanted = {0.0: 0, 0.05: 1, 0.08: 2, 0.3: 2, 0.38: 2, 0.4: 3, 0.5: 4, 1.5: 4, 1.6: 5, 1.7: 7}  # seconds at 25 ticks
    assert read_numbers(decode_frames(path, times=list(wanted), crop=WHOLE, size=64)) == list(wanted.values())
    for time, number in wanted.items():
        assert read_numbers(decode_frames(path, times=[time], crop=WHOLE, size=64)) == [number]


def test_one_pass_stops_when_all_are_found(count_video, read_numbers, tmp_path, monkeypatch):
    path = count_video(tmp_path / "video.mp4", frames=200, options=H264 | {"sc_threshold": "0"})
    decoded = []
    stamped = decode._stamped
    monkeypatch.setattr(
        decode, "_stamped", lambda *args, **named: (decoded.append(item) or item for item in stamped(*args, **named))
    )
    assert read_numbers(decode_frames(path, times=[100 / 25, 104 / 25, 104 / 25], crop=WHOLE, size=64)) == [
        100,
        104,
        104,
    ]
    assert len(decoded) <= 10  # from the key frame 96 to 105, the first frame that is too late


def test_a_seek_that_lands_late_is_repaired(count_video, read_numbers, tmp_path, monkeypatch):
    path = count_video(tmp_path / "late.ts", codec="mpeg2video")
    opened = []
    open_video = decode.open_video
    monkeypatch.setattr(decode, "open_video", lambda source: opened.append(source) or open_video(source))
    for number in range(60):
        assert read_numbers(decode_frames(path, times=[number / 25], crop=WHOLE, size=64)) == [number]
    assert len(opened) > 60  # the file needs the repair, so it tests it


def test_crop_and_colour(tmp_path):
    image = np.zeros((64, 96, 3), np.uint8)
    image[:32, :48], image[:32, 48:], image[32:, :48], image[32:, 48:] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255,) * 3,
    )
    with av.open(str(tmp_path / "colours.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    whole = decode_frames(tmp_path / "colours.mp4", times=[0], crop=Crop(0, 0, 96, 64), size=32)[0]
    for corner, colour in {
        (4, 4): (255, 0, 0),
        (4, 28): (0, 255, 0),
        (28, 4): (0, 0, 255),
        (28, 28): (255,) * 3,
    }.items():
        assert np.abs(whole[corner].astype(int) - colour).max() <= 6  # conversion to YUV and back rounds twice
    odd = decode_frames(tmp_path / "colours.mp4", times=[0], crop=Crop(49, 33, 31, 31), size=16)[0]
    assert odd.min() >= 230  # one pixel beside the edge: white, but for what the encoder lets bleed


def test_half_size_is_the_mean_of_each_four_pixels(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 1), np.uint8).repeat(3, 2)
    with av.open(str(tmp_path / "noise.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "gray"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="gray")))
        container.mux(stream.encode(None))
    small = decode_frames(tmp_path / "noise.mkv", times=[0], crop=WHOLE, size=32)[0].astype(float)
    mean = image.astype(float).reshape(32, 2, 32, 2, 3).mean((1, 3))
    nearest = image[::2, ::2].astype(float)
    assert np.abs(small - mean).mean() < 20 < np.abs(small - nearest).mean()  # a triangle filter is near the mean


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"", "Invalid data"), (b"no video at all", "Invalid data")],
)
def test_unreadable_files_are_named_with_a_reason(content, reason, tmp_path):
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DecodeError, match=reason) as caught:
        decode_frames(path, times=[0], crop=WHOLE, size=64)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)


def test_a_file_without_video_is_refused(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(DecodeError, match="no video stream"):
        decode_frames(tmp_path / "sound.mp4", times=[0], crop=WHOLE, size=64)


def test_a_crop_outside_the_frame_is_refused(count_video, tmp_path):
    path = count_video(tmp_path / "video.mp4", frames=2)
    with pytest.raises(DecodeError, match=r"Crop\(x=1.*outside its frames of 64x64"):
        decode_frames(path, times=[0], crop=Crop(1, 0, 64, 64), size=64)


@pytest.mark.parametrize("times", [[], [1.0, 0.5]])
def test_times_must_ascend(times, tmp_path):
    with pytest.raises(ValueError, match="times must be ascending"):
        decode_frames(tmp_path / "video.mp4", times=times, crop=WHOLE, size=64)


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(DecodeError("/a b.mp4", "broken")))
    assert (error.path, error.reason, str(error)) == ("/a b.mp4", "broken", "/a b.mp4: broken")
