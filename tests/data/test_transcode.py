"""Transcodes show the frames of their source at the times of their source, and are complete or absent."""

import signal
import struct
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tats_ray.data.decode import View, decode_views
from tats_ray.data.frames import frame_seconds
from tats_ray.data.manifest import VideoRecord
from tats_ray.data.probe import probe_record, verify
from tats_ray.data.scaling import Crop
from tats_ray.data.source import DecodeError, VideoSource
from tats_ray.data.transcode import (
    TranscodeSettings,
    partial_path,
    read_made_of,
    small_size,
    transcode,
)

LEAST_PSNR = 30.0
"""Decibels at crf 23; natural clips reach 35 to 50, the hard edges of these drawings a little less."""


def seconds_of(record: VideoRecord) -> np.ndarray:
    return frame_seconds(record, np.arange(record.num_frames))


def pictures(record: VideoRecord, size: int = 64) -> np.ndarray:
    """All frames, whole, stretched to a square."""
    view = View(tuple(seconds_of(record).tolist()), Crop(0, 0, record.width, record.height))
    return decode_views(record.source, [view], frame_size=(record.width, record.height), size=size)[0]


def transcoded(path: Path | str, target: Path, **settings) -> tuple[VideoRecord, VideoRecord]:
    """Transcode; return the rows of the source and of the transcode."""
    source = path if isinstance(path, VideoSource) else VideoSource(str(path))
    record = probe_record(source, label=None)
    transcode(
        record.source,
        frame_size=(record.width, record.height),
        content=str(record.content),
        target=target,
        settings=TranscodeSettings(**settings),
    )
    return record, probe_record(VideoSource(str(target)), label=None, measure=verify)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Of the worst frame, in decibels."""
    error = ((one.astype(float) - other) ** 2).mean(axis=(1, 2, 3)).max()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


VFR = [0, 1, 2, 5, 6, 20, 21, 22, 40, 41]


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("even.mp4", {"frames": 30}),
        ("ntsc.mp4", {"frames": 20, "rate": Fraction(30000, 1001)}),
        ("vfr.mp4", {"ticks": VFR}),
        ("vfr.mkv", {"ticks": VFR}),
        ("b_frames.mp4", {"frames": 40, "options": {"bf": "3"}}),
        ("old.avi", {"frames": 20, "codec": "mpeg4"}),
        ("long_gop.webm", {"frames": 30, "codec": "libvpx-vp9", "gop": 300}),
    ],
)
def test_frames_and_times_are_those_of_the_source(name, made, count_video, read_numbers, tmp_path):
    before, after = transcoded(count_video(tmp_path / name, **made), tmp_path / "out.mp4")
    np.testing.assert_allclose(seconds_of(after), seconds_of(before), atol=1e-9)
    assert (after.width, after.height) == (64, 64)
    shown = pictures(after)
    assert read_numbers(shown) == read_numbers(pictures(before)) == list(range(before.num_frames))
    assert psnr(shown, pictures(before)) > LEAST_PSNR


def test_key_frames_come_every_gop_and_sound_is_dropped(count_video, tmp_path):
    transcoded(count_video(tmp_path / "a.mp4", frames=50, gop=250), tmp_path / "out.mp4", gop=7)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        keys = [number for number, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert max(np.diff([*keys, 50])) <= 7


def test_key_frames_of_the_source_are_not_copied(count_video, tmp_path):
    transcoded(count_video(tmp_path / "a.mp4", frames=24, gop=1), tmp_path / "out.mp4", gop=24)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(frame.key_frame for frame in container.decode(video=0)) < 24


def test_colours_of_full_range_become_limited_and_look_the_same(tmp_path):
    """Grey from black to white: read in the wrong range it would be off by up to 16 of 255, 24 decibels."""
    grey = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    with av.open(str(tmp_path / "full.mp4"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25, options={"qmax": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        stream.codec_context.color_range = 2
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format="yuvj420p", dst_color_range=2)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    before, after = transcoded(tmp_path / "full.mp4", tmp_path / "out.mp4")
    np.testing.assert_allclose(pictures(before)[0], grey, atol=6)
    assert psnr(pictures(after), pictures(before)) > LEAST_PSNR
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert next(container.decode(video=0)).color_range == 1


def test_x265_is_an_encoder_too(count_video, read_numbers, tmp_path):
    _, after = transcoded(count_video(tmp_path / "a.mp4", frames=20), tmp_path / "out.mp4", codec="libx265", crf=18)
    assert read_numbers(pictures(after)) == list(range(20))


@pytest.mark.parametrize(
    ("matrix", "sizes"),
    [
        ((65536, 0, 0, 0, 65536), ((192, 64), (96, 32))),
        ((0, 65536, 0, -65536, 0), ((64, 192), (32, 96))),
        ((0, -65536, 0, 65536, 0), ((64, 192), (32, 96))),
        ((-65536, 0, 0, 0, -65536), ((192, 64), (96, 32))),
        ((-65536, 0, 0, 0, 65536), ((192, 64), (96, 32))),
    ],
    ids=["as stored", "clockwise", "anticlockwise", "upside down", "mirrored"],
)
def test_frames_are_upright_with_square_pixels(tmp_path, matrix, sizes):
    """A picture that gets brighter to the right and bluer downwards, with pixels twice as wide as high."""
    path = tmp_path / "turned.mp4"
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[..., :2] = np.linspace(0, 250, 96)[None, :, None]
    picture[..., 2] = np.linspace(0, 250, 64)[:, None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = bytearray(path.read_bytes())
    struct.pack_into(">5i", content, content.index(b"tkhd") + 44, *matrix)
    path.write_bytes(content)
    before, after = transcoded(path, tmp_path / "out.mp4", short_side=32)
    assert ((before.width, before.height), (after.width, after.height)) == sizes
    assert psnr(pictures(after), pictures(before)) > LEAST_PSNR
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio in (None, 1)


def test_a_folder_of_frames_and_a_member_of_a_shard_are_sources_too(count_video, read_numbers, tar_of, tmp_path):
    video = count_video(tmp_path / "a.mp4", frames=12)
    folder = tmp_path / "frames"
    folder.mkdir()
    with av.open(str(video)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            frame.to_image().save(folder / f"{number}.png")
    shard = tar_of(tmp_path / "s.tar", {"a.txt": b"x", "a.mp4": video.read_bytes()})
    content = shard.read_bytes()
    member = VideoSource(str(shard), "a.mp4", content.index(video.read_bytes()), len(video.read_bytes()))
    for source, rate in ((VideoSource(str(folder), fps=8), 8), (member, 25)):
        before, after = transcoded(source, tmp_path / "out.mp4")
        assert read_numbers(pictures(after)) == list(range(12))
        np.testing.assert_allclose(seconds_of(after), np.arange(12) / rate, atol=1e-9)
        assert read_made_of(tmp_path / "out.mp4")["source"] == source.name
        assert before.content == read_made_of(tmp_path / "out.mp4")["content"]


@pytest.mark.parametrize(
    ("size", "short_side", "small"),
    [
        ((1920, 1080), 256, (456, 256)),  # 455.1
        ((1080, 1920), 256, (256, 456)),
        ((192, 128), 256, (192, 128)),
        ((129, 97), 256, (128, 96)),
        ((255, 255), 254, (254, 254)),
        ((1, 1), 32, (2, 2)),
        ((4000, 33), 32, (3878, 32)),  # 3878.8
    ],
)
def test_sizes_are_even_and_never_larger(size, short_side, small):
    assert small_size(size, short_side) == small


def test_a_finished_transcode_is_kept_and_a_changed_one_made_anew(count_video, tmp_path):
    video, target = count_video(tmp_path / "a.mp4", frames=10), tmp_path / "out.mp4"
    before, _ = transcoded(video, target)
    made = read_made_of(target)
    assert made == {
        "source": str(video),
        "content": before.content,
        "recipe": 1,
        "short_side": 256,
        "gop": 12,
        "codec": "libx264",
        "crf": 23,
    }
    first = target.stat().st_mtime_ns
    transcoded(video, target)
    assert target.stat().st_mtime_ns == first
    transcoded(video, target, crf=24)
    second = target.stat().st_mtime_ns
    assert second > first
    count_video(video, frames=11)  # another file in its place
    transcoded(video, target, crf=24)
    assert target.stat().st_mtime_ns > second


def test_names_of_any_kind_are_kept_in_the_tag(count_video, tmp_path):
    name = "ünï 'q' \"d\" = ; % # \\ \n " + "long " * 40 + ".mp4"
    transcoded(count_video(tmp_path / name, frames=2), tmp_path / "out.mp4")
    assert read_made_of(tmp_path / "out.mp4")["source"] == str(tmp_path / name)


def test_damage_on_the_way_is_a_reason_and_leaves_nothing(count_video, tmp_path):
    whole = count_video(tmp_path / "a.mkv", frames=250).read_bytes()
    place = len(whole) * 4 // 5  # the encoder holds some fifty frames back before it writes the first
    (tmp_path / "cut.mkv").write_bytes(whole[:place] + bytes(200) + whole[place + 200 :])
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DecodeError, match=r"cut\.mkv"):
        transcoded(tmp_path / "cut.mkv", out / "out.mp4")
    assert not list(out.iterdir())


def test_a_folder_that_cannot_be_written_is_a_reason(count_video, tmp_path):
    with pytest.raises(DecodeError, match=r"its transcode .*none/out\.mp4 cannot be written: No such file"):
        transcoded(count_video(tmp_path / "a.mp4", frames=2), tmp_path / "none" / "out.mp4")


def test_killed_in_the_middle_nothing_half_has_the_name(count_video, tmp_path):
    """The process is killed outright while it writes; the next one does the work."""
    video, target = count_video(tmp_path / "a.mp4", frames=250), tmp_path / "out.mp4"
    code = (
        "import sys, time; from pathlib import Path; from tats_ray.data import transcode as t\n"
        "from tats_ray.data.source import VideoSource\n"
        "encode = t._Shrinker.__call__\n"
        "t._Shrinker.__call__ = lambda *given: (time.sleep(0.05), encode(*given))[1]\n"
        "t.transcode(VideoSource(sys.argv[1]), frame_size=(64, 64), content='x', target=Path(sys.argv[2]),"
        " settings=t.TranscodeSettings())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(video), str(target)])
    deadline = time.monotonic() + 60
    while not partial_path(target).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not target.exists()
    assert partial_path(target).name.startswith(".")
    _, after = transcoded(video, target)
    assert after.num_frames == 250
    assert not partial_path(target).exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"short_side": 101}, "short_side must be an even number of at least 32 pixels, got 101"),
        ({"short_side": 16}, "short_side must be an even number of at least 32 pixels, got 16"),
        ({"gop": 0}, "gop must be at least 1 frame, got 0"),
        ({"codec": "h264"}, "codec must be one of libx264, libx265, got 'h264'"),
        ({"crf": 52}, r"crf must be from 0 \(lossless\) to 51 \(worst\), got 52"),
        ({"crf": -1}, r"crf must be from 0 \(lossless\) to 51 \(worst\), got -1"),
    ],
)
def test_settings_that_break_a_rule(settings, message):
    with pytest.raises(ValueError, match=message):
        TranscodeSettings(**settings)


def test_what_is_no_transcode_was_made_of_nothing(count_video, tmp_path):
    assert read_made_of(tmp_path / "none.mp4") is None
    (tmp_path / "text.mp4").write_text("text")
    assert read_made_of(tmp_path / "text.mp4") is None
    assert read_made_of(count_video(tmp_path / "a.mp4", frames=2)) is None
    with av.open(str(tmp_path / "b.mp4"), "w") as container:
        container.metadata["comment"] = "holidays"
        stream = container.add_stream("libx264", rate=25)
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    assert read_made_of(tmp_path / "b.mp4") is None
