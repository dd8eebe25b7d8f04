"""Videos behind URIs, within tar shards, and as folders of frames."""

import io
import os

import av
import fsspec
import numpy as np
import pytest

from tats_ray.data import decode, opening
from tats_ray.data.decode import Crop, View, decode_views
from tats_ray.data.opening import Window
from tats_ray.data.probe import probe, verify
from tats_ray.data.source import DecodeError, VideoSource

WHOLE = Crop(0, 0, 64, 64)
H264 = {"preset": "veryfast", "crf": "18", "bf": "2"}


def show(source, times, *, frame_size=(64, 64)):
    return decode_views(source, [View(tuple(times), Crop(0, 0, *frame_size))], frame_size=frame_size, size=64)[0]


def without_content(measured):
    return {name: value for name, value in vars(measured).items() if name != "content"}


@pytest.fixture
def memory():
    """The file system in memory of fsspec, emptied afterwards."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv", "video.avi", "video.ts"])
def test_a_uri_is_what_the_file_is(name, memory, count_video, read_numbers, tmp_path):
    path = count_video(tmp_path / name, options=H264)
    memory.pipe(f"/bucket/{name}", path.read_bytes())
    local = VideoSource(str(path))
    for remote in (VideoSource(f"memory://bucket/{name}"), VideoSource(f"file://{path}")):
        assert probe(remote) == probe(local)
        assert verify(remote) == verify(local)
        times = [number / 25 for number in (0, 17, 30, 59)]
        assert np.array_equal(show(remote, times), show(local, times))
        assert read_numbers(show(remote, [40 / 25])) == [40]


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("name", ["video.mp4", "video.avi"])
def test_a_member_of_a_shard_is_what_the_file_is(name, remote, memory, count_video, read_numbers, tmp_path):
    path, other = (count_video(tmp_path / f"{number}-{name}", options=H264, frames=40 + number) for number in (0, 9))
    before, after = b"\0" * 511 + other.read_bytes(), other.read_bytes()
    (tmp_path / "shard.tar").write_bytes(before + path.read_bytes() + after)
    memory.pipe("/bucket/shard.tar", (tmp_path / "shard.tar").read_bytes())
    place = "memory://bucket/shard.tar" if remote else str(tmp_path / "shard.tar")
    member = VideoSource(place, "a/video", len(before), path.stat().st_size)
    local = VideoSource(str(path))
    assert probe(member) == probe(local)
    assert read_numbers(show(member, [number / 25 for number in (0, 13, 27, 39, 45)])) == [0, 13, 27, 39, 39]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("memory://bucket/none.mp4", "bucket/none.mp4|No such file"),
        ("nosuch://bucket/video.mp4", "Protocol not known: nosuch"),
        ("oci://bucket/video.mp4", "ocifs"),  # a protocol that fsspec knows and whose package is not installed
        ("file:///none.mp4", "No such file"),
    ],
)
def test_what_cannot_be_opened_is_named_with_a_reason(path, reason):
    for attempt in (probe, verify, lambda source: show(source, [0])):
        with pytest.raises(DecodeError, match=reason) as caught:
            attempt(VideoSource(path))
        assert caught.value.path == path
        assert len(caught.value.reason) < 300


def test_a_read_that_fails_on_the_way_is_named(memory, count_video, tmp_path, monkeypatch):
    memory.pipe("/bucket/video.mp4", count_video(tmp_path / "video.mp4", options=H264).read_bytes())
    monkeypatch.setattr(opening, "_open", lambda path: Failing(memory.cat("/bucket/video.mp4")))
    for attempt in (probe, lambda source: show(source, [2])):
        with pytest.raises(DecodeError, match="RuntimeError: the token has expired"):
            attempt(VideoSource("memory://bucket/video.mp4"))


class Failing(io.BytesIO):
    """A remote file whose connection is lost after some bytes."""

    def read(self, size=-1):
        if self.tell() > 2000:
            raise RuntimeError("the token has expired")
        return super().read(min(size, 1000))


def test_a_window_reads_nothing_around_it():
    window = Window(io.BytesIO(b"before" + b"video" + b"after"), VideoSource("shard.tar", "video", 6, 5))
    assert window.read() == b"video"
    assert (window.seek(-2, os.SEEK_END), window.read(9), window.read(9)) == (3, b"eo", b"")
    assert (window.seek(1), window.seek(1, os.SEEK_CUR), window.tell(), window.read(2)) == (1, 2, 2, b"de")
    assert (window.seek(99), window.read(1)) == (99, b"")


@pytest.mark.parametrize(("offset", "num_bytes"), [(0, None), (None, 9)])
def test_half_a_window_is_refused(offset, num_bytes):
    with pytest.raises(ValueError, match="offset and num_bytes must be given together"):
        VideoSource("shard.tar", "video", offset, num_bytes)


@pytest.fixture
def folder(tmp_path, count_video):
    """Twelve numbered frames whose names must be put in natural order, and what is no frame."""
    path = tmp_path / "frames %02d"
    path.mkdir()
    source = count_video(tmp_path / "video.mp4", frames=12, options=H264)
    with av.open(str(source)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            frame.to_image().save(path / f"frame_{number}.{'png' if number % 2 else 'JPG'}")
    (path / "notes.txt").write_text("no frame")
    (path / ".frame_99.png").write_bytes(b"hidden")
    return VideoSource(str(path), fps=10)


def test_a_folder_of_frames(folder, read_numbers, monkeypatch):
    measured = probe(folder)
    assert without_content(measured) == {
        "num_frames": 12,
        "fps": 10,
        "duration": pytest.approx(1.2),
        "width": 64,
        "height": 64,
        "times": None,
    }
    assert verify(folder) == measured
    read, opened = decode.read_frame, []
    monkeypatch.setattr(decode, "read_frame", lambda source, path: opened.append(path) or read(source, path))
    assert read_numbers(show(folder, [0, 0.1, 0.34, 0.38, 1.0, 5, 9])) == [0, 1, 3, 4, 10, 11, 11]
    assert [os.path.basename(path) for path in opened] == [
        f"frame_{number}.{'png' if number % 2 else 'JPG'}" for number in (0, 1, 3, 4, 10, 11)
    ]


def test_a_folder_is_refused_with_a_reason(folder, tmp_path):
    with pytest.raises(DecodeError, match="give the source its fps"):
        probe(VideoSource(folder.path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DecodeError, match="holds no frames"):
        show(VideoSource(str(tmp_path / "empty"), fps=10), [0])
    with open(os.path.join(folder.path, "frame_7.png"), "wb") as file:
        file.write(b"no picture")
    assert probe(folder).num_frames == 12
    for attempt in (verify, lambda source: show(source, [0.7])):
        with pytest.raises(DecodeError, match=r"frame_7\.png: Invalid data") as caught:
            attempt(folder)
        assert caught.value.path == folder.path


def test_a_cover_picture_is_no_video(count_video, read_numbers, tmp_path):
    with av.open(str(tmp_path / "covered.mp4"), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        source = count_video(tmp_path / "video.mp4", options=H264)
        with av.open(str(source)) as video:
            copy = container.add_stream_from_template(video.streams.video[0])
            container.mux(cover.encode(av.VideoFrame(32, 32, "yuvj420p")))
            container.mux(cover.encode(None))
            for packet in video.demux(video=0):
                if packet.size:
                    packet.stream = copy
                    container.mux(packet)
    measured = probe(VideoSource(str(tmp_path / "covered.mp4")))
    assert (measured.num_frames, measured.width) == (60, 64)
    assert read_numbers(show(VideoSource(str(tmp_path / "covered.mp4")), [1.0])) == [25]
