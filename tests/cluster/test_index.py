import csv
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from tats_ray.cluster import index
from tats_ray.cluster.index import SOURCE_SCHEMA, index_videos, probe_rows
from tats_ray.data.manifest import Manifest, ManifestError
from tats_ray.data.synthetic import SyntheticConfig, make_videos

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
    rows = probe_rows(
        pa.Table.from_pylist(
            [{"path": p, "label": n} for p, n in zip(paths, (4, 5), strict=True)], schema=SOURCE_SCHEMA
        )
    ).to_pylist()
    assert [row["path"] for row in rows] == paths
    assert [row["num_frames"] for row in rows] == [None, 6]
    assert rows[0]["reason"].startswith("Invalid data")
    assert (rows[1]["reason"], rows[1]["label"]) == (None, 5)


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
    monkeypatch.setattr(index, "VIDEOS_PER_BLOCK", 1)
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
    assert report.rejected_path.read_text().split() == ["path,reason"]


@pytest.mark.ray
def test_nothing_that_decodes_is_an_error_and_no_manifest(folder, tmp_path):
    with pytest.raises(ManifestError, match=r"none of 1 files decodes, see .*rejected.csv; the first is .*a_text.mp4"):
        index_videos(folder / "a_text.mp4", out=tmp_path / "set.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["set.rejected.csv"]
