import csv
import io
import logging
import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tats_ray.data.listing import list_sources, list_videos
from tats_ray.data.manifest import ManifestError
from tats_ray.data.splits.official import OfficialSplit


def listed(source: str | Path) -> list[tuple[str, int | None]]:
    """List paths and labels of videos that are files."""
    return [(source.path, label) for source, label in list_sources(source)]


def put(folder: str, files: dict[str, bytes]) -> None:
    """Fill a folder of fsspec's memory."""
    for name, content in files.items():
        fsspec.filesystem("memory").pipe_file(f"/{folder}/{name}", content)


LISTS = {
    "space": ("a.mp4 0\nb.mp4 12\n", [("a.mp4", 0), ("b.mp4", 12)]),
    "comma": ("a.mp4,0\nb.mp4, 1\n", [("a.mp4", 0), ("b.mp4", 1)]),
    "tab": ("a.mp4\t0\n\nb.mp4\t1", [("a.mp4", 0), ("b.mp4", 1)]),
    "bare": ("a.mp4\nsub/b.mp4\n", [("a.mp4", None), ("sub/b.mp4", None)]),
    "blanks and commas": ("my clip, two.mp4 3\nother, clip.mp4,4\n", [("my clip, two.mp4", 3), ("other, clip.mp4", 4)]),
    "blanks without label": ("my clip.mp4\nclip, two.mp4\n", [("my clip.mp4", None), ("clip, two.mp4", None)]),
    "quoted": ('"a, ""b"".mp4",5\n', [('a, "b".mp4', 5)]),
    "windows": ("\ufeffa.mp4 1\r\nb.mp4 2\r\n", [("a.mp4", 1), ("b.mp4", 2)]),
    "header": ("label,path\n7,a.mp4\n,b.mp4\n", [("a.mp4", 7), ("b.mp4", None)]),
    "header, no label": ('path,seconds\n"a, b.mp4",3\n', [("a, b.mp4", None)]),
    "up and absolute": ("../a.mp4 1\n/tmp/b.mp4 2\n", [("../a.mp4", 1), ("/tmp/b.mp4", 2)]),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("suffix", [".txt", ".csv", ""])
def test_lists(name, suffix, tmp_path):
    text, rows = LISTS[name]
    (tmp_path / f"list{suffix}").write_text(text, encoding="utf-8", newline="")
    expected = [(str((tmp_path / path).resolve()), label) for path, label in rows]
    assert listed(tmp_path / f"list{suffix}") == expected


def test_a_list_is_relative_to_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "train.csv").write_text("a.mp4 0\n")
    monkeypatch.chdir(tmp_path)
    assert listed("sets/train.csv") == [(str(tmp_path / "sets" / "a.mp4"), 0)]


def test_parquet_tables(tmp_path):
    pq.write_table(
        pa.table({"path": ["a.mp4", "b.mp4"], "label": pa.array([1, None], pa.int32())}), tmp_path / "t.parquet"
    )
    assert listed(tmp_path / "t.parquet") == [(str(tmp_path / "a.mp4"), 1), (str(tmp_path / "b.mp4"), None)]
    pq.write_table(pa.table({"path": ["a.mp4"]}), tmp_path / "bare.parquet")
    assert listed(tmp_path / "bare.parquet") == [(str(tmp_path / "a.mp4"), None)]


def test_folders_are_searched_through_links_without_going_in_circles(tmp_path):
    folder, elsewhere = tmp_path / "videos", tmp_path / "elsewhere"
    for file in ("b.mp4", "a/2.MKV", "a/1.avi", "a/notes.txt", ".hidden.mp4", ".cache/x.mp4", "b.truth.npz"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    elsewhere.mkdir()
    (elsewhere / "c.webm").touch()
    (folder / "linked").symlink_to(elsewhere)
    (folder / "z.mp4").symlink_to(elsewhere / "c.webm")
    (folder / "circle").symlink_to(folder)
    found = [str(Path(path).relative_to(folder)) for path, _ in listed(folder)]
    assert found == ["b.mp4", "z.mp4", "a/1.avi", "a/2.MKV", "linked/c.webm"]


def test_a_video_stands_for_itself(tmp_path):
    (tmp_path / "a.mp4").touch()
    assert listed(tmp_path / "a.mp4") == [(str(tmp_path / "a.mp4"), None)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "names no video"),
        ("a.txt", "\n \n", "names no video"),
        ("a.txt", "a.mp4 0\n\n17\n", "line 3: no path"),
        ("a.csv", "path,label\na.mp4,cat\n", "line 2: the label must be an integer, got 'cat'"),
        ("a.csv", "path,label\na.mp4,0\n,1\n", "line 3: no path"),
        ("a.txt", "a.mp4 0\n./a.mp4 1\n", "names a video 2 times: .*a.mp4"),
        ("a.parquet", "path\n", "not a Parquet file"),
    ],
)
def test_broken_lists_name_the_line(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ManifestError, match=message):
        listed(tmp_path / name)


def test_other_broken_sources(tmp_path):
    with pytest.raises(ManifestError, match="no such folder, list or video"):
        listed(tmp_path / "none")
    with pytest.raises(ManifestError, match=r"no videos found in the folder .*looked for .*\.mp4"):
        listed(tmp_path)
    (tmp_path / "binary.dat").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ManifestError, match="neither a video by its suffix nor a list"):
        listed(tmp_path / "binary.dat")
    pq.write_table(pa.table({"file": ["a.mp4"]}), tmp_path / "t.parquet")
    with pytest.raises(ManifestError, match=r"needs a column 'path', it has \['file'\]"):
        listed(tmp_path / "t.parquet")
    pq.write_table(pa.table({"path": ["a.mp4"], "label": ["cat"]}), tmp_path / "u.parquet")
    with pytest.raises(ManifestError, match="integers in 'label'"):
        listed(tmp_path / "u.parquet")


def test_what_csv_writes_is_read(tmp_path):
    paths = ["made name with spaces, ünïcode & 'quotes'.mp4", 'say "hello", then.mp4', "plain.mp4"]
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([(path, label) for label, path in enumerate(paths)])
    assert listed(tmp_path / "list.csv") == [(str(tmp_path / path), label) for label, path in enumerate(paths)]


def test_videos_without_a_split_are_the_sources_and_with_one_its_own(tmp_path):
    (tmp_path / "list.txt").write_text("b.mp4 4\na.mp4 5\nc.mp4\n")
    plain = list_videos(tmp_path / "list.txt")
    assert [(video.source, video.label) for video in plain.videos] == list_sources(tmp_path / "list.txt")
    assert all(video.span is None for video in plain.videos)
    assert (list(plain.missing), list(plain.classes)) == ([], [])
    (tmp_path / "vocab.json").write_text('["x", "y"]')
    (tmp_path / "part.json").write_text('[{"vid_name": "a", "label": 1}, {"vid_name": "d", "label": 0}]')
    split = list_videos(
        tmp_path / "list.txt", split=OfficialSplit("diving48", tmp_path / "part.json", tmp_path / "vocab.json")
    )
    assert [(video.name, video.label) for video in split.videos] == [(str(tmp_path / "a.mp4"), 1)]  # not the list's 5
    assert ([name for name, _ in split.missing], split.classes) == (["d"], ["x", "y"])


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_of_frames_are_videos(tmp_path):
    touch(
        tmp_path,
        "b/10.jpg",
        "b/9.JPEG",
        "a/x/1.png",
        "a/y/1.png",
        "mixed/1.png",
        "mixed/notes.txt",
        "empty/.hidden.png",
    )
    found = list_sources(tmp_path, fps=12.5)
    assert [(source.path, source.fps, label) for source, label in found] == [
        (str(tmp_path / name), 12.5, None) for name in ("a/x", "a/y", "b")
    ]
    assert [source.path for source, _ in list_sources(tmp_path / "b", fps=5)] == [str(tmp_path / "b")]


def test_frames_need_their_rate_and_nothing_else_takes_it(tmp_path):
    touch(tmp_path, "frames/1.png", "videos/a.mp4")
    with pytest.raises(ManifestError, match=r"/frames is a folder of frames; say how many frames a second .* --fps"):
        list_sources(tmp_path / "frames")
    with pytest.raises(ValueError, match=r"fps=25 is for folders of frames, and .*/videos holds videos"):
        list_sources(tmp_path / "videos", fps=25)
    for fps in (0, -3, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="fps must be a positive number of frames a second, got"):
            list_sources(tmp_path / "frames", fps=fps)


def test_videos_come_before_shards_and_frames_and_what_is_left_aside_is_said(tmp_path, caplog):
    touch(tmp_path, "a.mp4", "videos.tar", "thumbs/1.jpg")
    with caplog.at_level(logging.WARNING):
        assert listed(tmp_path) == [(str(tmp_path / "a.mp4"), None)]
    assert "holds 1 videos, 1 tar shards, 1 folders of images: the 1 videos are taken" in caplog.text


def test_lists_name_shards_and_folders_of_frames(tmp_path, tar_of):
    touch(tmp_path, "frames/1.png")
    tar_of(tmp_path / "s.tar", {"x.mp4": b"", "y.mp4": b"", "y.cls": b"9"})
    (tmp_path / "list.txt").write_text("a.mp4 1\ns.tar 5\nframes 2\n")
    found = list_sources(tmp_path / "list.txt", fps=8)
    assert [(Path(source.path).name, source.member, source.fps, label) for source, label in found] == [
        ("a.mp4", None, None, 1),
        ("s.tar", "x.mp4", None, 5),
        ("s.tar", "y.mp4", None, 9),
        ("frames", None, 8, 2),
    ]


def test_folders_behind_a_uri_are_searched_in_the_order_of_local_ones(tmp_path):
    names = ("b.mp4", "a/2.MKV", "a/1.avi", "a/notes.txt", ".hidden.mp4", ".cache/x.mp4", "a/.deep/y.mp4", "z.mp4")
    put("searched", dict.fromkeys(names, b"x"))
    touch(tmp_path, *names)
    found = [path.removeprefix("memory://searched/") for path, _ in listed("memory://searched/")]
    assert found == ["b.mp4", "z.mp4", "a/1.avi", "a/2.MKV"]
    assert found == [os.path.relpath(path, tmp_path) for path, _ in listed(tmp_path)]


def test_lists_and_tables_behind_a_uri_count_paths_from_their_own_folder(tmp_path):
    table = io.BytesIO()
    pq.write_table(pa.table({"path": ["b.mp4", "s3://bucket/c.mp4"]}), table)
    put("sets", {"train.txt": b"../a.mp4 1\n/local/b.mp4 2\ngs://c/d.mp4 3\n", "t.parquet": table.getvalue()})
    assert listed("memory://sets/train.txt") == [("memory://a.mp4", 1), ("/local/b.mp4", 2), ("gs://c/d.mp4", 3)]
    assert listed("memory://sets/t.parquet") == [("memory://sets/b.mp4", None), ("s3://bucket/c.mp4", None)]
    (tmp_path / "list.txt").write_text("memory://x/a.mp4\nfile:///data/b.mp4\n")
    assert listed(f"file://{tmp_path}/list.txt") == [("memory://x/a.mp4", None), ("/data/b.mp4", None)]


def test_files_and_shards_behind_a_uri(tmp_path, tar_of):
    shard = tar_of(tmp_path / "s.tar", {"a.mp4": b"0123", "a.cls": b"4"}).read_bytes()
    put("single", {"a.mp4": b"x", "s.tar": shard})
    assert listed("memory://single/a.mp4") == [("memory://single/a.mp4", None)]
    ((source, label),) = list_sources("memory://single/s.tar")
    assert (source.path, source.member, label) == ("memory://single/s.tar", "a.mp4", 4)
    assert shard[source.offset : source.offset + source.num_bytes] == b"0123"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("memory://nothing", "no such folder, list or video: memory://nothing"),
        ("memory://nothing/a.mp4", "no such folder, list or video: memory://nothing/a.mp4"),
        ("memory://nothing/a.tar", "no such folder, list or video: memory://nothing/a.tar"),
        ("nowhere://bucket/a.mp4", "nowhere:// URIs cannot be opened here .*; install the fsspec package for it"),
    ],
)
def test_uris_that_lead_nowhere(source, message):
    with pytest.raises(ManifestError, match=message):
        list_sources(source)


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    touch(tmp_path, "a.mp4", "closed/b.mp4")
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)  # a test may run as root, who can read all
    with pytest.raises(
        ManifestError, match=r"the folder .*/closed cannot be read: Permission denied; make it readable"
    ):
        list_sources(tmp_path)
