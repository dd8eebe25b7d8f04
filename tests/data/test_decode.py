import pickle
import weakref

import av
import numpy as np
import pytest

from tats_ray.data import decode, timeline
from tats_ray.data.decode import Crop, View, decode_views
from tats_ray.data.source import DecodeError, VideoSource

WHOLE = Crop(0, 0, 64, 64)


def decode_frames(path, *, times, crop, size, frame_size=(64, 64)):
    """Decode one view."""
    return decode_views(VideoSource(str(path)), [View(tuple(times), crop)], frame_size=frame_size, size=size)[0]


H264 = {"preset": "veryfast", "crf": "18"}


@pytest.mark.parametrize("settings", [{"options": H264 | {"bf": "3"}}, {"codec": "mpeg4"}, {"gop": 250}])
def test_views_of_one_pass_are_what_each_gives_alone(settings, count_video, tmp_path):
    source = VideoSource(str(count_video(tmp_path / "video.mp4", **settings)))
    rng = np.random.default_rng(0)
    for _ in range(20):
        views = [
            View(
                tuple(np.sort(rng.uniform(0, 2.6, rng.integers(1, 6))).tolist()),
                Crop(*rng.integers(0, 20, 2).tolist(), *rng.integers(1, 44, 2).tolist()),
            )
            for _ in range(rng.integers(1, 4))
        ]
        together = decode_views(source, views, frame_size=(64, 64), size=16)
        for video, view in zip(together, views, strict=True):
            assert video.shape == (len(view.times), 16, 16, 3)
            assert np.array_equal(video, decode_views(source, [view], frame_size=(64, 64), size=16)[0])


def test_views_share_one_decode(count_video, tmp_path, monkeypatch):
    path = count_video(tmp_path / "video.mp4", frames=100, options=H264 | {"sc_threshold": "0"})
    opened, decoded = [], []
    open_video, presented = timeline.open_video, timeline._presented
    monkeypatch.setattr(timeline, "open_video", lambda source: opened.append(source) or open_video(source))
    monkeypatch.setattr(
        timeline, "_presented", lambda *args: (decoded.append(item.seconds) or item for item in presented(*args))
    )
    views = [View((60 / 25, 70 / 25), WHOLE), View((62 / 25, 65 / 25), WHOLE), View((61 / 25, 72 / 25), WHOLE)]
    decode_views(VideoSource(str(path)), views, frame_size=(64, 64), size=16)
    assert (len(opened), len(decoded)) == (1, 14)  # from the key frame 60 to 73, the first that is too late


def test_frames_that_are_not_shown_are_not_kept(count_video, tmp_path, monkeypatch):
    path = count_video(tmp_path / "video.mp4", frames=100, gop=250, options=H264)
    alive, most = weakref.WeakSet(), []
    presented = timeline._presented

    def watched(*args):
        for item in presented(*args):
            handle = Handle()
            alive.add(handle)
            most.append(len(alive))
            yield item._replace(frame=Watched(item.frame, handle))

    monkeypatch.setattr(timeline, "_presented", watched)
    monkeypatch.setattr(timeline, "_seek", lambda *args, **named: None)
    scaler = decode.Scaler.__call__
    monkeypatch.setattr(decode.Scaler, "__call__", lambda self, frame: scaler(self, frame.frame))
    decode_frames(path, times=[0, 1, 3.9], crop=WHOLE, size=16)
    assert len(most) >= 98  # all to the frame at 3.9 s and the next
    assert max(most) <= 4  # the one on display, the one before, the one at hand, and the one being handed over


class Handle:
    pass


class Watched:
    """A frame that tells how long it is kept."""

    def __init__(self, frame, handle):
        self.frame, self.handle = frame, handle

    is_corrupt = False
    pict_type = 1


def test_past_the_end_the_last_frame_is_held(count_video, read_numbers, tmp_path):
    path = count_video(tmp_path / "video.mp4", options=H264)
    video = decode_frames(path, times=[58 / 25, 100, 200], crop=WHOLE, size=64)
    assert read_numbers(video) == [58, 59, 59]
    assert np.array_equal(video[1], video[2])


def test_variable_rate_shows_the_frame_on_display(count_video, read_numbers, tmp_path):
    path = count_video(tmp_path / "vfr.mp4", ticks=[0, 1, 2, 10, 11, 40, 41, 42], gop=3, options=H264)
    wanted = {0.0: 0, 0.05: 1, 0.08: 2, 0.3: 2, 0.38: 2, 0.4: 3, 0.5: 4, 1.5: 4, 1.6: 5, 1.7: 7}  # seconds at 25 ticks
    assert read_numbers(decode_frames(path, times=list(wanted), crop=WHOLE, size=64)) == list(wanted.values())
    for time, number in wanted.items():
        assert read_numbers(decode_frames(path, times=[time], crop=WHOLE, size=64)) == [number]


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
    whole = decode_frames(tmp_path / "colours.mp4", times=[0], crop=Crop(0, 0, 96, 64), size=32, frame_size=(96, 64))[0]
    for corner, colour in {
        (4, 4): (255, 0, 0),
        (4, 28): (0, 255, 0),
        (28, 4): (0, 0, 255),
        (28, 28): (255,) * 3,
    }.items():
        assert np.abs(whole[corner].astype(int) - colour).max() <= 6  # conversion to YUV and back rounds twice
    odd = decode_frames(tmp_path / "colours.mp4", times=[0], crop=Crop(49, 33, 31, 31), size=16, frame_size=(96, 64))[0]
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
