import csv
import fcntl
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from tats_ray.cluster import index
from tats_ray.cluster.index import SOURCE_SCHEMA, Transcoding, index_videos, probe_rows
from tats_ray.data.manifest import Manifest, ManifestError
from tats_ray.data.splits.official import OfficialSplit
from tats_ray.data.synthetic import SyntheticConfig, make_videos
from tats_ray.data.transcode import TranscodeSettings

PIPELINE = Path(__file__).parents[2] / "pipelines" / "index_videos.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three videos that decode, beside two files that do not."""
    folder = tmp_path_factory.mktemp("videos")
    make_videos(folder, SyntheticConfig(num_videos=3, frames=6, size=32))
    (folder / "a_text.mp4").write_text("no video at all")
    (folder / "z_empty.mp4").touch()
    return folder


@pytest.fixture
def no_ray(monkeypatch):
    def start_ray():
        pytest.fail("Ray was started")

    monkeypatch.setattr(index, "start_ray", start_ray)


def test_a_broken_file_becomes_a_row_with_a_reason(folder):
    paths = [str(folder / "a_text.mp4"), str(folder / "synthetic_0000.mp4")]
    rows = probe_rows(pa.Table.from_pylist([{"path": path} for path in paths], schema=SOURCE_SCHEMA)).to_pylist()
    assert [row["path"] for row in rows] == paths
    assert [row["num_frames"] for row in rows] == [None, 6]
    assert rows[0]["reason"].startswith("Invalid data")
    assert rows[1]["reason"] is None


@pytest.mark.usefixtures("no_ray")
def test_bad_arguments_are_found_before_ray_starts(tmp_path):
    with pytest.raises(ManifestError, match="no videos found"):
        index_videos(tmp_path, out=tmp_path / "manifest.parquet")
    with pytest.raises(ManifestError, match="no such folder"):
        index_videos(tmp_path / "none", out=tmp_path / "manifest.parquet")
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        index_videos(tmp_path, out=tmp_path / "manifest.parquet", workers=0)
    with pytest.raises(ValueError, match="out must be a file"):
        index_videos(tmp_path, out=tmp_path)
    with pytest.raises(ValueError, match=r"window=2 would make other rows than the split lists"):
        index_videos(tmp_path, out=tmp_path / "manifest.parquet", window=2, split=OfficialSplit("ucf101", "x"))
    with pytest.raises(ManifestError, match=r"no such split or class file: \S+none.json"):
        index_videos(tmp_path, out=tmp_path / "manifest.parquet", split=OfficialSplit("ssv2", "none.json", "none.json"))
    with pytest.raises(ValueError, match="window must be a positive number of seconds, got 0"):
        index_videos(tmp_path, out=tmp_path / "manifest.parquet", window=0)


@pytest.mark.usefixtures("no_ray")
def test_bad_folders_for_transcodes_are_found_before_ray_starts(folder, tmp_path):
    def index_into(place):
        index_videos(folder, out=tmp_path / "manifest.parquet", transcoding=Transcoding(place))

    with pytest.raises(ValueError, match="the folder for transcodes must lie outside of the source"):
        index_into(folder / "small")
    with pytest.raises(ValueError, match="transcodes go to a folder that all nodes see, not to a URI"):
        index_into("s3://bucket/small")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        index_into(tmp_path / "file")


@pytest.mark.usefixtures("no_ray")
def test_two_do_not_transcode_into_one_folder(folder, tmp_path):
    (tmp_path / "small").mkdir()
    with (tmp_path / "small" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"another process transcodes into .*small; wait for it"):
            index_videos(folder, out=tmp_path / "m.parquet", transcoding=Transcoding(tmp_path / "small"))


def rows_of(*paths: Path, **more) -> pa.Table:
    return pa.Table.from_pylist([{"path": str(path), **more} for path in paths], schema=SOURCE_SCHEMA)


def test_a_file_that_never_answers_is_a_row_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "PATIENCE_SECONDS", 1.0)
    os.mkfifo(tmp_path / "a.mp4")
    (row,) = probe_rows(rows_of(tmp_path / "a.mp4")).to_pylist()
    assert "took longer" in row["reason"]


def test_damage_in_the_middle_is_found_by_decoding_every_frame(folder, tmp_path):
    (video,) = make_videos(tmp_path, SyntheticConfig(num_videos=1, frames=48, size=64))
    damaged = tmp_path / "damaged.mp4"
    content = bytearray(Path(video).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    damaged.write_bytes(content)
    assert probe_rows(rows_of(damaged)).to_pylist()[0]["reason"] is None
    assert probe_rows(rows_of(damaged), depth="every frame").to_pylist()[0]["reason"]
    whole = rows_of(folder / "synthetic_0000.mp4")
    assert probe_rows(whole, depth="every frame").to_pylist() == probe_rows(whole).to_pylist()


def test_the_command_fails_with_one_line(tmp_path):
    out = tmp_path / "manifest.parquet"
    done = subprocess.run(
        [sys.executable, PIPELINE, tmp_path, "--out", out], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no videos found in the folder")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
def test_index_keeps_the_order_and_lists_what_it_rejects(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "MOST_PER_BLOCK", 1)
    report = index_videos(folder, out=tmp_path / "new" / "set.parquet", workers=2)
    manifest = Manifest.read(tmp_path / "new" / "set.parquet")
    names = [Path(manifest.record(row).path).name for row in range(len(manifest))]
    assert names == ["synthetic_0000.mp4", "synthetic_0001.mp4", "synthetic_0002.mp4"]
    assert manifest.record(0).truth is not None
    assert manifest.hash == report.manifest.hash
    with (tmp_path / "new" / "set.rejected.csv").open() as file:
        rejected = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in rejected] == ["a_text.mp4", "z_empty.mp4"]
    assert all(row["reason"] for row in rejected)


@pytest.mark.ray
def test_labels_come_from_the_list_and_an_empty_table_of_rejects_is_written(folder, tmp_path):
    lines = [f"{folder / f'synthetic_{number:04d}.mp4'} {number + 5}" for number in (2, 0)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    report = index_videos(tmp_path / "list.txt", out=tmp_path / "set.parquet")
    assert [report.manifest.record(row).label for row in range(2)] == [7, 5]
    assert Path(report.rejected_path).read_text().split() == ["path,reason"]


@pytest.mark.ray
def test_a_split_gives_order_labels_and_class_names_and_counts_what_is_missing(folder, tmp_path):
    (tmp_path / "classInd.txt").write_text("1 C\n2 D\n")
    names = ["synthetic_0002", "none", "a_text", "synthetic_0000"]
    (tmp_path / "testlist01.txt").write_text(
        "".join(f"{c}/{name}.avi\n" for c, name in zip("DDCC", names, strict=True))
    )
    split = OfficialSplit("ucf101", tmp_path / "testlist01.txt")
    small = Transcoding(tmp_path / "small", TranscodeSettings(short_side=32))
    report = index_videos(folder, out=tmp_path / "m.parquet", split=split, transcoding=small)
    rows = [report.manifest.record(row) for row in range(len(report.manifest))]
    assert [(row.path, row.label) for row in rows] == [
        (str(tmp_path / "small" / "synthetic_0002.mp4"), 1),
        (str(tmp_path / "small" / "synthetic_0000.mp4"), 0),
    ]
    assert [Path(name).name for name, _ in report.rejected] == ["none.avi", "a_text.mp4"]
    assert (report.num_videos, report.num_missing, report.num_repeated) == (2, 1, 0)
    assert report.classes_path == str(tmp_path / "m.classes.txt")
    assert (tmp_path / "m.classes.txt").read_text() == "C\nD\n"


@pytest.mark.ray
def test_nothing_that_decodes_is_an_error_and_no_manifest(folder, tmp_path):
    with pytest.raises(ManifestError, match=r"none of 1 files decodes, see .*rejected.csv; the first is .*a_text.mp4"):
        index_videos(folder / "a_text.mp4", out=tmp_path / "set.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["set.rejected.csv"]


@pytest.mark.ray
def test_transcodes_take_the_place_of_their_sources(folder, tmp_path):
    small = tmp_path / "small"
    videos = tmp_path / "videos"
    (videos / "more").mkdir(parents=True)
    for number, name in enumerate(("a.mp4", "more/b.mp4", "more/same.mp4")):
        shutil.copy(folder / f"synthetic_{min(number, 1):04d}.mp4", videos / name)
    (videos / "broken.mp4").write_text("no video at all")
    plain = index_videos(videos, out=tmp_path / "plain.parquet").manifest
    settings = TranscodeSettings(short_side=32, gop=2)
    report = index_videos(videos, out=tmp_path / "small.parquet", window=0.1, transcoding=Transcoding(small, settings))
    assert (report.num_videos, report.num_repeated, len(report.rejected)) == (3, 1, 1)
    rows = [report.manifest.record(row) for row in range(len(report.manifest))]
    assert list(dict.fromkeys(row.path for row in rows)) == [
        str(small / name) for name in ("a.mp4", "more/b.mp4", "more/same.mp4")
    ]
    assert [row.num_frames for row in rows] == [3, 3] * 3  # six frames at 24 a second, cut at a tenth of one
    assert {row.content for row in rows} == {plain.record(row).content for row in range(3)}
    made = {path: path.stat().st_mtime_ns for path in small.rglob("*.mp4")}
    again = index_videos(videos, out=tmp_path / "small.parquet", window=0.1, transcoding=Transcoding(small, settings))
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*.mp4")} == made
    assert again.manifest.hash == report.manifest.hash
    assert sorted(path.name for path in small.rglob("*")) == [".lock", "a.mp4", "b.mp4", "more", "same.mp4"]


@pytest.mark.usefixtures("no_ray")
def test_the_settings_of_transcodes_need_transcodes(tmp_path, capsys):
    main = runpy.run_path(str(PIPELINE))["main"]
    assert main([str(tmp_path), "--out", str(tmp_path / "m.parquet"), "--gop", "3"]) == 2
    assert "error: --gop 3 is for --transcode DIR; add that, or leave --gop out" in capsys.readouterr().err
    (tmp_path / "a.mp4").touch()
    assert main([str(tmp_path), "--out", str(tmp_path / "m.parquet"), "--transcode", "s3://b/x"]) == 2
    assert "a folder that all nodes see, not to a URI, got s3://b/x" in capsys.readouterr().err
    assert main([str(tmp_path), "--out", str(tmp_path / "m.parquet"), "--transcode", "x", "--gop", "0"]) == 2
    assert "error: gop must be at least 1 frame, got 0" in capsys.readouterr().err
