import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tats_ray.data.listing import list_sources
from tats_ray.data.manifest import ManifestError


def listed(source: str | Path) -> list[tuple[str, int | None]]:
    """List paths and labels of videos that are files."""
    return [(source.path, label) for source, label in list_sources(source)]


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
