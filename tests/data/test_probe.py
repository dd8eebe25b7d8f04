import hashlib
from fractions import Fraction

import av
import pytest

from tats_ray.data import timeline
from tats_ray.data.manifest import truth_path
from tats_ray.data.probe import probe, probe_record, verify
from tats_ray.data.source import DecodeError, VideoSource


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("b-frames.mp4", {"options": {"bf": "3"}}),
        ("ntsc.mp4", {"rate": Fraction(30000, 1001)}),
        ("late-start.mkv", {"ticks": range(100, 160)}),
        ("mpeg4.avi", {"codec": "mpeg4"}),
        ("one.mp4", {"frames": 1}),
    ],
)
def test_probe_counts_and_times(name, settings, count_video, tmp_path):
    measured = probe(VideoSource(str(count_video(tmp_path / name, **settings))))
    count = settings.get("frames", 60)
    fps = float(settings.get("rate", 25))
    assert (measured.num_frames, measured.width, measured.height) == (count, 64, 64)
    assert measured.fps == pytest.approx(fps, rel=1e-3)  # a clock of milliseconds rounds first and last stamp
    assert measured.duration == pytest.approx(count / fps, rel=1e-3)


@pytest.mark.parametrize("measure", [probe, verify])
@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv", "vfr.ts"])
def test_a_variable_rate_is_averaged_and_timed(name, measure, count_video, tmp_path):
    ticks = [0, 1, 2, 10, 11, 40]
    measured = measure(VideoSource(str(count_video(tmp_path / name, ticks=ticks))))
    assert measured.num_frames == 6
    assert measured.fps == pytest.approx(5 / (40 / 25))
    assert measured.times == pytest.approx([tick / 25 for tick in ticks], abs=1e-4)


@pytest.mark.parametrize(("late", "timed"), [(0.0, False), (0.2, False), (0.3, True), (-0.2, False), (-0.3, True)])
def test_times_are_told_where_a_frame_is_off_by_a_quarter(late, timed, count_video, tmp_path, monkeypatch):
    path = count_video(tmp_path / "video.mp4", options={"bf": "0"})
    present = timeline.Clock.present

    def shifted(clock, stamp):  # frame 20 begins this share of a frame too late
        return present(clock, stamp + round(late * 512) if stamp == 20 * 512 else stamp)

    monkeypatch.setattr(timeline.Clock, "present", shifted)
    for measure in (probe, verify):
        assert (measure(VideoSource(str(path))).times is not None) == timed


def test_the_content_is_the_hash_of_the_bytes(count_video, tmp_path):
    path = count_video(tmp_path / "video.mp4")
    data = path.read_bytes()
    (tmp_path / "shard.tar").write_bytes(b"before" + data + b"after")
    shard = VideoSource(str(tmp_path / "shard.tar"), "video", 6, len(data))
    for measure in (probe, verify):
        assert measure(VideoSource(str(path))).content == hashlib.sha256(data).hexdigest()
        assert measure(shard).content == hashlib.sha256(data).hexdigest()


def test_the_content_of_a_folder_is_that_of_its_frames(tmp_path):
    for number in (9, 10):
        av.VideoFrame(16, 16, "rgb24").to_image().save(tmp_path / f"{number}.png")
    data = (tmp_path / "9.png").read_bytes() + (tmp_path / "10.png").read_bytes()
    assert probe(VideoSource(str(tmp_path), fps=5)).content == hashlib.sha256(data).hexdigest()


def test_verify_refuses_what_probe_does_not_see(count_video, tmp_path):
    path = count_video(tmp_path / "video.mp4", frames=120, options={"bf": "0", "sc_threshold": "0"})
    with av.open(str(path)) as container:
        place = [packet.pos for packet in container.demux(video=0) if packet.size][75]  # at 3 s
    data = bytearray(path.read_bytes())
    data[place + 4 : place + 12] = b"\xff" * 8
    path.write_bytes(data)
    assert probe(VideoSource(str(path))).num_frames == 120
    with pytest.raises(DecodeError, match=r"(after 2\.96|at 3\.00) s"):
        verify(VideoSource(str(path)))


def test_a_record_is_measured_as_it_is_told(count_video, tmp_path):
    source = VideoSource(str(count_video(tmp_path / "video.mp4", frames=4)))
    measured = []
    record = probe_record(source, label=None, measure=lambda source: measured.append(source) or verify(source))
    assert measured == [source]
    assert record == probe_record(source, label=None)


def test_probe_refuses_what_does_not_decode(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    with pytest.raises(DecodeError, match=r"bad\.mp4: Invalid data"):
        probe(VideoSource(str(tmp_path / "bad.mp4")))


def test_a_record_finds_its_truth_and_names_itself_by_path(count_video, tmp_path):
    paths = [str(count_video(tmp_path / f"{name}.mp4", frames=2)) for name in "ab"]
    truth_path(paths[1]).touch()
    first, second = (probe_record(VideoSource(path), label=3) for path in paths)
    assert (first.truth, second.truth) == (None, str(tmp_path / "b.truth.npz"))
    assert first.id != second.id
    assert probe_record(VideoSource(paths[0]), label=3) == first
    assert (len(first.id), first.label, first.path) == (16, 3, paths[0])
