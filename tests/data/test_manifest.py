from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tats_ray.data.manifest import Manifest, ManifestError, VideoRecord, WeightedManifest
from tats_ray.data.order import Part


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
    write_text = Path.write_text

    def fail(path, content):
        write_text(path, "half")
        raise OSError("disk full")

    manifest.write(tmp_path / "manifest.parquet")
    monkeypatch.setattr(Path, "write_bytes", fail)
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


def test_uris_are_written_and_read(manifest):
    manifest.write("memory://manifests/a.parquet")
    assert Manifest.read("memory://manifests/a.parquet").hash == manifest.hash
    assert fsspec.filesystem("memory").exists("/manifests/a.parquet")
    with pytest.raises(ManifestError, match=r"no such manifest file: memory://none\.parquet; make one"):
        Manifest.read("memory://none.parquet")


def test_a_uri_of_a_kind_that_is_not_installed_names_the_way_out(manifest):
    for use in (Manifest.read, manifest.write):
        with pytest.raises(ManifestError, match=r"nowhere:// URIs cannot be opened here .*install the fsspec package"):
            use("nowhere://bucket/a.parquet")


@pytest.fixture
def two(tmp_path):
    """Manifests of three and two videos, and the entries that name them."""
    Manifest.of([make_record(number) for number in range(3)]).write(tmp_path / "a.parquet")
    Manifest.of([make_record(number) for number in (7, 8)]).write(tmp_path / "b.parquet")
    return [WeightedManifest(path=str(tmp_path / f"{name}.parquet"), weight=w) for name, w in (("a", 2), ("b", 1))]


def test_manifests_are_laid_end_to_end_and_keep_their_weights(two):
    joined = Manifest.read_all(two)
    assert [joined.record(row).path for row in range(5)] == [f"/videos/{number}.mp4" for number in (0, 1, 2, 7, 8)]
    assert joined.parts == (Part(two[0].path, 3, 2.0), Part(two[1].path, 2, 1.0))
    some = joined.select([1, 2, 4])
    assert [part.num_videos for part in some.parts] == [2, 1]
    assert [part.weight for part in some.parts] == [2, 1]
    assert [part.num_videos for part in joined.select([4]).parts] == [0, 1]
    with pytest.raises(ValueError, match="rows must be in the order of the 2 manifests"):
        joined.select([4, 0])


def test_one_manifest_of_weight_1_is_what_it_was(two):
    alone = Manifest.read(two[0].path)
    assert Manifest.read_all([WeightedManifest(path=two[0].path)]).hash == alone.hash
    assert alone.parts == (Part(two[0].path, 3),)


def test_the_hash_covers_all_manifests_and_weights(two):
    first, second = two
    others = [[first], [first, second], [second, first], [first, second.model_copy(update={"weight": 3.0})]]
    assert len({Manifest.read_all(named).hash for named in others} | {Manifest.read(first.path).hash}) == 5


def test_a_video_in_two_manifests_is_refused(two, tmp_path):
    Manifest.of([make_record(number) for number in (8, 2)]).write(tmp_path / "c.parquet")
    named = [*two, WeightedManifest(path=str(tmp_path / "c.parquet"))]
    with pytest.raises(
        ManifestError, match=r"/videos/8\.mp4 is in .*b\.parquet and in .*c\.parquet; name each video once"
    ):
        Manifest.read_all(named)
