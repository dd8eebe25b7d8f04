"""Where transcodes lie: as their sources do, and never two in one place."""

from pathlib import Path

import pytest

from tats_ray.data.layout import check_apart, transcode_targets
from tats_ray.data.manifest import ManifestError
from tats_ray.data.source import VideoSource

DIR = Path("/small")


def targets(*sources: VideoSource, root: str = "/videos") -> list[str]:
    return [str(target) for target in transcode_targets(sources, root=root, folder=DIR)]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (VideoSource("/videos/a.mp4"), "/small/a.mp4"),
        (VideoSource("/videos/b/a.avi"), "/small/b/a.avi.mp4"),
        (VideoSource("/videos/b/A.MP4"), "/small/b/A.MP4"),
        (VideoSource("/videos/frames/walk", fps=25), "/small/frames/walk.mp4"),
        (VideoSource("/videos/s.tar", "x/a.mp4", 0, 1), "/small/s.tar/x/a.mp4"),
        (VideoSource("/videos/s.tar", "../../etc/a.webm", 0, 1), "/small/s.tar/etc/a.webm.mp4"),
        (VideoSource("/videos/s.tar", "/a.mp4", 0, 1), "/small/s.tar/a.mp4"),
        (VideoSource("/videos2/a.mp4"), "/small/videos2/a.mp4"),
        (VideoSource("s3://bucket/a.mp4"), "/small/s3/bucket/a.mp4"),
    ],
)
def test_places(source, target):
    assert targets(source) == [target]


def test_uris_keep_their_place_below_their_folder():
    assert targets(VideoSource("s3://b/v/c/a.mp4"), root="s3://b/v/") == ["/small/c/a.mp4"]


def test_names_that_differ_in_their_suffix_stay_apart():
    found = targets(VideoSource("/videos/a.mp4"), VideoSource("/videos/a.avi"), VideoSource("/videos/a.mkv"))
    assert found == ["/small/a.mp4", "/small/a.avi.mp4", "/small/a.mkv.mp4"]


def test_two_videos_in_one_place_are_refused():
    with pytest.raises(ManifestError, match=r"/a\.avi and .*/a\.avi\.mp4 would both be transcoded to .*; rename one"):
        targets(VideoSource("/videos/a.avi"), VideoSource("/videos/a.avi.mp4"))


def test_a_video_is_never_written_onto_itself(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ManifestError, match="would be transcoded onto itself; name another folder with --transcode"):
        transcode_targets([VideoSource(str(tmp_path / "a.mp4"))], root=str(tmp_path), folder=tmp_path / "link")


def test_the_folder_lies_outside_of_the_source(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "videos")
    for inside in ("videos", "videos/small", "link/small"):
        with pytest.raises(ValueError, match="the folder for transcodes must lie outside of the source, got"):
            check_apart(tmp_path / inside, source=str(tmp_path / "videos"))
    check_apart(tmp_path / "videos_small", source=str(tmp_path / "videos"))
    check_apart(tmp_path, source="s3://bucket/videos")
