"""Which video of a folder a row of an official split means."""

from tats_ray.data.source import VideoSource
from tats_ray.data.splits.split import LabelledVideo, Span, Split, SplitRow, find_videos


def found(rows: list[SplitRow], *paths: str):
    return find_videos(Split(rows, ["x", "y"]), [VideoSource(path) for path in paths], folder="/v")


def test_videos_are_found_by_name_in_any_folder_and_with_any_suffix():
    rows = [
        SplitRow("x/b", 1, "b", "x"),
        SplitRow("x/a", 0, "a", "x"),
        SplitRow("x/c", 0, "c"),
        SplitRow("c.d", 1, "c.d"),
    ]
    got = found(rows, "/v/a.webm", "/v/deep/b.avi.mp4", "/v/c.d.MKV", "/v/other.mp4")
    assert [(video.source.path, video.label) for video in got.videos] == [
        ("/v/deep/b.avi.mp4", 1),
        ("/v/a.webm", 0),
        ("/v/c.d.MKV", 1),
    ]
    assert got.missing == [("x/c", "no video c (with any suffix of a video) in /v")]
    shard = find_videos(Split(rows[:1], ["x"]), [VideoSource("/v/s.tar", "in/b.mp4", 512, 9)], folder="/v")
    assert shard.videos[0].source.member == "in/b.mp4"


def test_the_folder_decides_among_videos_of_one_name():
    row = SplitRow("air drumming/a", 1, "a", "air drumming")
    assert found([row], "/v/abseiling/a.mp4", "/v/air_drumming/a.mp4").videos == [
        LabelledVideo(VideoSource("/v/air_drumming/a.mp4"), 1)
    ]
    for paths in (("/v/p/a.mp4", "/v/q/a.mp4"), ("/v/air drumming/a.mp4", "/v/air_drumming/a.mp4")):
        ((name, reason),) = found([row], *paths).missing
        assert name == "air drumming/a"
        assert reason == f"several videos have that name: {', '.join(paths)}; keep one"


def test_a_row_that_is_listed_twice_is_taken_once():
    got = found([SplitRow("x/a", 0, "a"), SplitRow("y/a", 1, "a")], "/v/a.mp4")
    assert [video.label for video in got.videos] == [0]
    assert got.missing == [("y/a", "is listed a second time; the first, with label 0, is taken")]


def test_stretches_of_one_video_are_apart_and_one_that_is_cut_out_is_whole():
    spans = [Span("n1", 1, 2), Span("n2", 1, 2), Span("n3", 0, 5), Span("n1", 1, 2)]
    rows = [SplitRow(span.name, 0, "long", span=span, trimmed=span.name) for span in spans]
    got = found(rows, "/v/P01/videos/long.MP4", "/v/n3.mp4")
    long = VideoSource("/v/P01/videos/long.MP4")
    assert got.videos == [
        LabelledVideo(long, 0, spans[0]),
        LabelledVideo(long, 0, spans[1]),
        LabelledVideo(VideoSource("/v/n3.mp4"), 0),
    ]
    assert [name for name, _ in got.missing] == ["n1"]
    assert got.videos[0].name == "/v/P01/videos/long.MP4#n1"
