from fractions import Fraction

import pytest

from tats_ray.data.manifest import truth_path
from tats_ray.data.probe import probe, probe_record
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


def test_probe_averages_a_variable_rate(count_video, tmp_path):
    measured = probe(VideoSource(str(count_video(tmp_path / "vfr.mp4", ticks=[0, 1, 2, 10, 11, 40]))))
    assert measured.num_frames == 6
    assert measured.fps == pytest.approx(5 / (40 / 25))


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
