"""Frame exactness: every frame of every kind of file, addressed by its time, against a decode from beginning to end."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tats_ray.data import timeline
from tats_ray.data.decode import Crop, View, decode_views
from tats_ray.data.probe import probe, verify
from tats_ray.data.source import DecodeError, VideoSource

WHOLE = Crop(0, 0, 64, 64)
NTSC = Fraction(30000, 1001)

H264 = {"preset": "veryfast", "crf": "18"}
HEVC = {"preset": "ultrafast", "crf": "18"}
VPX = {"cpu-used": "8", "deadline": "good", "lag-in-frames": "20", "auto-alt-ref": "1", "b": "2M"}
CODECS = {
    "h264": ("libx264", H264 | {"bf": "0"}),
    "h264 b-frames": ("libx264", H264 | {"bf": "3"}),
    "h264 b-pyramid": ("libx264", H264 | {"bf": "8", "x264-params": "b-adapt=0:b-pyramid=normal"}),
    "h264 open": ("libx264", H264 | {"bf": "3", "x264-params": "open-gop=1:scenecut=0"}),
    "h264 refresh": ("libx264", H264 | {"bf": "0", "intra-refresh": "1"}),  # no key frame after the first
    "hevc": ("libx265", HEVC | {"x265-params": "log-level=none:bframes=3:open-gop=0"}),
    "hevc open": ("libx265", HEVC | {"x265-params": "log-level=none:bframes=3:open-gop=1"}),
    "mpeg4": ("mpeg4", {}),
    "mpeg4 b-frames": ("mpeg4", {"bf": "2"}),
    "msmpeg4": ("msmpeg4", {}),
    "mpeg1 b-frames": ("mpeg1video", {"bf": "2"}),
    "mpeg2": ("mpeg2video", {}),
    "mpeg2 b-frames": ("mpeg2video", {"bf": "2"}),
    "vp8": ("libvpx", VPX),
    "vp9": ("libvpx-vp9", VPX),
    "av1": ("libsvtav1", {"preset": "12", "crf": "18"}),
    "ffv1": ("ffv1", {}),
    "mjpeg": ("mjpeg", {}),
    "wmv2": ("wmv2", {}),
    "flv1": ("flv", {}),
    "gif": ("gif", {}),
}
# fmt: off
CONTAINERS = {
    "mp4": ["h264", "h264 b-frames", "h264 b-pyramid", "h264 open", "h264 refresh", "hevc", "hevc open", "mpeg4",
            "mpeg4 b-frames", "mpeg2 b-frames", "vp9", "av1"],
    "fragmented.mp4": ["h264", "h264 b-frames", "hevc open"],
    "mov": ["h264 b-frames", "h264 open", "hevc", "mpeg4 b-frames", "mjpeg"],
    "mkv": ["h264 b-frames", "h264 open", "h264 refresh", "hevc open", "mpeg4 b-frames", "mpeg2", "mpeg2 b-frames",
            "vp8", "vp9", "av1", "ffv1"],
    "webm": ["vp8", "vp9", "av1"],
    "avi": ["h264", "h264 b-frames", "h264 b-pyramid", "h264 open", "mpeg4", "mpeg4 b-frames", "msmpeg4",
            "mpeg2 b-frames", "mjpeg", "ffv1"],
    "flv": ["h264 b-frames", "h264 open", "flv1"],
    "wmv": ["wmv2", "msmpeg4", "h264", "h264 b-frames"],
    "ts": ["h264 b-frames", "h264 open", "hevc open", "mpeg2", "mpeg2 b-frames"],
    "mpg": ["mpeg1 b-frames", "mpeg2", "mpeg2 b-frames"],
    "h264": ["h264", "h264 b-frames"],
    "gif": ["gif"],
}
# fmt: on
MATRIX = [
    pytest.param(container, codec, gop, marks=() if gop == 12 else pytest.mark.slow)
    for container, codecs in CONTAINERS.items()
    for codec in codecs
    for gop in (1, 12, 250)
]


def decode(path, times):
    return decode_views(VideoSource(str(path)), [View(tuple(times), WHOLE)], frame_size=(64, 64), size=64)[0]


def assert_exact(path, read_numbers, *, count):
    """Every frame that starts a clip is the one of a decode from beginning to end by libav alone."""
    with av.open(str(path)) as container:
        truth = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert read_numbers(truth) == list(range(count))  # the file itself is as intended
    measured = probe(VideoSource(str(path)))
    assert verify(VideoSource(str(path))) == measured
    assert measured.num_frames == count
    times = measured.times or [number / measured.fps for number in range(count)]
    whole = decode(path, times)
    assert np.abs(whole.astype(int) - truth).max() <= 3  # two ways from YUV to RGB, each rounds
    for start in range(count):
        wanted = [start, min(start + 5, count - 1), count - 1]
        assert np.array_equal(decode(path, [times[number] for number in wanted]), whole[wanted]), start
    return measured


@pytest.mark.parametrize(("container", "codec", "gop"), MATRIX)
def test_every_position_of_every_kind_of_file(container, codec, gop, count_video, read_numbers, tmp_path):
    encoder, options = CODECS[codec]
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if "fragmented" in container else {}
    path = tmp_path / f"numbered.{container}"
    count_video(path, codec=encoder, gop=gop, options=options, container_options=fragments)
    measured = assert_exact(path, read_numbers, count=60)
    # The last frames of a program stream may all be stamped with the time of its last pack.
    assert measured.fps == pytest.approx(25, rel=0.03 if container == "mpg" else 1e-3)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ntsc.mp4", {"rate": NTSC, "options": H264}),
        ("milliseconds.mkv", {"rate": NTSC, "options": H264 | {"bf": "2"}}),  # the clock cannot count 1001/30000 s
        ("late-start.mkv", {"ticks": range(100, 160), "options": H264}),
        (
            "late-start.mp4",
            {"ticks": range(100, 160), "options": H264, "container_options": {"movflags": "frag_keyframe"}},
        ),
        ("negative.mkv", {"ticks": range(-30, 30), "options": H264}),
        ("edit-list.mp4", {"ticks": range(-30, 30), "options": H264 | {"bf": "0"}}),
        (
            "bursts.mp4",
            {"ticks": [*range(20), *range(100, 110), *range(400, 430)], "options": H264, "rate": Fraction(240)},
        ),
        (
            "bursts.mkv",
            {"ticks": [*range(20), *range(300, 310), *range(900, 930)], "options": H264, "rate": Fraction(600)},
        ),
        ("slides.webm", {"codec": "libvpx-vp9", "ticks": [0, 100, 101, 500, 501], "options": VPX}),
        ("slides.mp4", {"ticks": [0, 100, 101, 500, 501], "gop": 2, "options": H264 | {"bf": "2"}}),
    ],
)
def test_every_position_whatever_the_clock(name, settings, count_video, read_numbers, tmp_path):
    path = count_video(tmp_path / name, **settings)
    ticks, rate = settings.get("ticks", range(60)), settings.get("rate", 25)
    shown = [tick for tick in ticks if tick >= 0 or name != "edit-list.mp4"]
    if name == "edit-list.mp4":  # what lies before zero is decoded and not shown
        measured = probe(VideoSource(str(path)))
        assert measured.num_frames == len(shown)
        times = [number / measured.fps for number in range(len(shown))]
        assert [read_numbers(decode(path, [time]))[0] for time in times] == list(range(30, 60))
        return
    measured = assert_exact(path, read_numbers, count=len(shown))
    seconds = np.array([float((tick - shown[0]) / rate) for tick in shown])
    found = measured.times or [number / measured.fps for number in range(len(shown))]
    assert np.abs(seconds - found).max() <= 0.0011  # Matroska counts milliseconds


def test_frames_stamped_alike_are_told_apart(count_video, read_numbers, tmp_path):
    path = count_video(tmp_path / "fast.mkv", rate=Fraction(3000), gop=250, options=H264)  # three a millisecond
    assert_exact(path, read_numbers, count=60)


def test_a_splice_goes_on_in_time(count_video, read_numbers, tmp_path):
    parts = [count_video(tmp_path / f"{name}.ts", frames=30, options=H264).read_bytes() for name in "ab"]
    (tmp_path / "spliced.ts").write_bytes(parts[0] + parts[1])
    measured = probe(VideoSource(str(tmp_path / "spliced.ts")))
    assert (measured.num_frames, measured.fps, measured.times) == (60, pytest.approx(25), None)
    video = decode(tmp_path / "spliced.ts", [number / 25 for number in range(60)])
    assert read_numbers(video) == [*range(30), *range(30)]


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv", "video.avi", "video.flv"])
def test_seeking_spares_the_beginning(name, count_video, read_numbers, tmp_path, monkeypatch):
    path = count_video(tmp_path / name, frames=200, options=H264 | {"bf": "0", "sc_threshold": "0"})
    decoded = []
    presented = timeline._presented
    monkeypatch.setattr(
        timeline, "_presented", lambda *args: (decoded.append(item) or item for item in presented(*args))
    )
    assert read_numbers(decode(path, [100 / 25, 104 / 25, 104 / 25])) == [100, 104, 104]
    assert len(decoded) <= 10  # from the key frame 96 to 105, the first frame that is too late


def test_a_seek_that_lands_late_is_repaired(count_video, read_numbers, tmp_path, monkeypatch):
    path = count_video(tmp_path / "late.ts", codec="mpeg2video")
    monkeypatch.setattr(timeline, "SEEKABLE", ("mpegts",))
    opened = []
    open_video = timeline.open_video
    monkeypatch.setattr(timeline, "open_video", lambda source: opened.append(source) or open_video(source))
    for number in range(60):
        assert read_numbers(decode(path, [number / 25])) == [number]
    assert len(opened) > 60  # the file needs the repair, so it tests it


def test_time_that_runs_backwards_is_refused_where_files_are_sought_in():
    clock = timeline.Clock("video.mp4", tick=0.04, frame=0.04, origin=None, restarts=False)
    assert [clock.present(stamp)[0] for stamp in (10, 11, 15)] == pytest.approx([0, 0.04, 0.2])
    with pytest.raises(DecodeError, match=r"runs backwards after 0\.20 s"):
        clock.present(12)


def test_forgiveness_is_a_quarter_of_the_frame_before():
    clock = timeline.Clock("video.mp4", tick=0.01, frame=0.04, origin=0, restarts=False)
    shown_from = [clock.present(stamp)[1] for stamp in (0, 4, 6, 100)]
    assert shown_from == pytest.approx([-0.01, 0.03, 0.055, 0.99])
