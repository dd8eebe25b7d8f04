import csv
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tats_ray.data.decode import DecodeError
from tats_ray.data.manifest import (
    Manifest,
    ManifestError,
    VideoRecord,
    list_sources,
    probe,
    probe_record,
    truth_path,
)


def make_record(number: int, **changes) -> VideoRecord:
    fields = {"label": number % 2 or None, "num_frames": 50, "fps": 25.0, "duration": 2.0, "width": 64, "height": 48}
    return VideoRecord(**{"id": f"{number:016x}", "path": f"/videos/{number}.mp4", "truth": None} | fields | changes)


@pytest.fixture
def manifest():
    return Manifest.of([make_record(number) for number in range(5)])


def test_write_and_read_give_the_same_back(manifest, tmp_path):
    manifest.write(tmp_path / "new" / "manifest.parquet")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["manifest.parquet"]  # nothing half-written is left
    read = Manifest.read(tmp_path / "new" / "manifest.parquet")
    assert [read.record(index) for index in range(len(read))] == [make_record(number) for number in range(5)]
    assert read.hash == manifest.hash


def test_the_hash_tells_every_change_of_content_or_order(manifest):
    others = [
        manifest.select([0, 1, 2, 4, 3]),
        manifest.select(range(4)),
        Manifest.of([make_record(number, label=7) for number in range(5)]),
    ]
    assert len({manifest.hash, *(other.hash for other in others)}) == 4
    assert manifest.select(range(5)).hash == manifest.hash


def test_select_keeps_the_order_asked_for(manifest):
    assert [manifest.select([3, 1]).record(index) for index in (0, 1)] == [make_record(3), make_record(1)]


def test_rows_count_from_both_ends_and_no_further(manifest):
    assert manifest.record(-1) == make_record(4)
    for row in (5, -6):
        with pytest.raises(IndexError):
            manifest.record(row)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(manifest, tmp_path, monkeypatch):
    def fail(table, path):
        path.write_text("half")
        raise OSError("disk full")

    manifest.write(tmp_path / "manifest.parquet")
    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        manifest.select([0]).write(tmp_path / "manifest.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.parquet"]
    assert len(Manifest.read(tmp_path / "manifest.parquet")) == 5


def test_a_missing_file_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(ManifestError, match=r"no such manifest file: .*none.parquet; make one .*index_videos.py"):
        Manifest.read(tmp_path / "none.parquet")


def test_a_file_that_is_not_parquet_is_an_error(tmp_path):
    (tmp_path / "text.parquet").write_text("path,label\n")
    with pytest.raises(ManifestError, match="not a Parquet file"):
        Manifest.read(tmp_path / "text.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns("fps"), "must have the columns"),
        (lambda table: table.append_column("extra", table["fps"]), "must have the columns"),
        (
            lambda table: table.set_column(4, "fps", table["fps"].cast(pa.float32())),
            "'fps' must be double, it is float",
        ),
        (lambda table: table.set_column(5, "duration", pa.nulls(5, pa.float64())), "'duration' lacks values"),
        (lambda table: table.slice(0, 0), "has no rows"),
        (lambda table: pa.concat_tables([table, table]), "'0000000000000000' occurs 2 times"),
    ],
)
def test_a_broken_table_is_an_error_that_names_file_and_column(manifest, change, message, tmp_path):
    pq.write_table(change(manifest.table), tmp_path / "broken.parquet")
    with pytest.raises(ManifestError, match=f"broken.parquet.*{message}"):
        Manifest.read(tmp_path / "broken.parquet")


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
    measured = probe(count_video(tmp_path / name, **settings))
    count = settings.get("frames", 60)
    fps = float(settings.get("rate", 25))
    assert (measured["num_frames"], measured["width"], measured["height"]) == (count, 64, 64)
    assert measured["fps"] == pytest.approx(fps, rel=1e-3)  # a clock of milliseconds rounds first and last stamp
    assert measured["duration"] == pytest.approx(count / fps, rel=1e-3)


def test_probe_averages_a_variable_rate(count_video, tmp_path):
    measured = probe(count_video(tmp_path / "vfr.mp4", ticks=[0, 1, 2, 10, 11, 40]))
    assert measured["num_frames"] == 6
    assert measured["fps"] == pytest.approx(5 / (40 / 25))


def test_probe_refuses_what_does_not_decode(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    with pytest.raises(DecodeError, match=r"bad\.mp4: Invalid data"):
        probe(tmp_path / "bad.mp4")


def test_a_record_finds_its_truth_and_names_itself_by_path(count_video, tmp_path):
    paths = [str(count_video(tmp_path / f"{name}.mp4", frames=2)) for name in "ab"]
    truth_path(paths[1]).touch()
    first, second = (probe_record(path, label=3) for path in paths)
    assert (first.truth, second.truth) == (None, str(tmp_path / "b.truth.npz"))
    assert first.id != second.id
    assert probe_record(paths[0], label=3) == first
    assert (len(first.id), first.label, first.path) == (16, 3, paths[0])


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
    assert list_sources(tmp_path / f"list{suffix}") == expected


def test_a_list_is_relative_to_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "train.csv").write_text("a.mp4 0\n")
    monkeypatch.chdir(tmp_path)
    assert list_sources("sets/train.csv") == [(str(tmp_path / "sets" / "a.mp4"), 0)]


def test_parquet_tables(tmp_path):
    pq.write_table(
        pa.table({"path": ["a.mp4", "b.mp4"], "label": pa.array([1, None], pa.int32())}), tmp_path / "t.parquet"
    )
    assert list_sources(tmp_path / "t.parquet") == [(str(tmp_path / "a.mp4"), 1), (str(tmp_path / "b.mp4"), None)]
    pq.write_table(pa.table({"path": ["a.mp4"]}), tmp_path / "bare.parquet")
    assert list_sources(tmp_path / "bare.parquet") == [(str(tmp_path / "a.mp4"), None)]


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
    found = [str(Path(path).relative_to(folder)) for path, _ in list_sources(folder)]
    assert found == ["b.mp4", "z.mp4", "a/1.avi", "a/2.MKV", "linked/c.webm"]


def test_a_video_stands_for_itself(tmp_path):
    (tmp_path / "a.mp4").touch()
    assert list_sources(tmp_path / "a.mp4") == [(str(tmp_path / "a.mp4"), None)]


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
        list_sources(tmp_path / name)


def test_other_broken_sources(tmp_path):
    with pytest.raises(ManifestError, match="no such folder, list or video"):
        list_sources(tmp_path / "none")
    with pytest.raises(ManifestError, match=r"no videos found in the folder .*looked for .*\.mp4"):
        list_sources(tmp_path)
    (tmp_path / "binary.dat").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ManifestError, match="neither a video by its suffix nor a list"):
        list_sources(tmp_path / "binary.dat")
    pq.write_table(pa.table({"file": ["a.mp4"]}), tmp_path / "t.parquet")
    with pytest.raises(ManifestError, match=r"needs a column 'path', it has \['file'\]"):
        list_sources(tmp_path / "t.parquet")
    pq.write_table(pa.table({"path": ["a.mp4"], "label": ["cat"]}), tmp_path / "u.parquet")
    with pytest.raises(ManifestError, match="integers in 'label'"):
        list_sources(tmp_path / "u.parquet")


def test_what_csv_writes_is_read(tmp_path):
    paths = ["made name with spaces, ünïcode & 'quotes'.mp4", 'say "hello", then.mp4', "plain.mp4"]
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([(path, label) for label, path in enumerate(paths)])
    assert list_sources(tmp_path / "list.csv") == [(str(tmp_path / path), label) for label, path in enumerate(paths)]
