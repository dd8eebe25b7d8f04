from pathlib import Path

import pytest

from tats_ray.data import part_files
from tats_ray.data.part_files import Part, PartError, cut, part_file, write_whole


def test_parts_hold_each_row_once_and_fit_into_memory(monkeypatch):
    monkeypatch.setattr(part_files, "PART_BYTES", 100)
    monkeypatch.setattr(part_files, "PART_VIDEOS", 4)
    assert cut(7, video_bytes=40) == [
        Part(0, range(2)),
        Part(1, range(2, 4)),
        Part(2, range(4, 6)),
        Part(3, range(6, 7)),
    ]
    assert cut(6, video_bytes=1) == [Part(0, range(4)), Part(1, range(4, 6))]
    assert cut(2, video_bytes=1000) == [Part(0, range(1)), Part(1, range(1, 2))]  # one is the least
    assert cut(0, video_bytes=1) == []


def test_parts_are_named_by_number_and_kind():
    assert part_file(Path("a"), 3) == Path("a/part_00003.parquet")
    assert part_file(Path("a"), 3, "slots") == Path("a/part_00003.slots.parquet")


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "folder" / "file"

    def half(place: Path) -> None:
        place.write_text("ha")
        assert not path.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, half)
    assert list(path.parent.iterdir()) == []
    write_whole(path, lambda place: place.write_text("whole"))
    assert [(one.name, one.read_text()) for one in path.parent.iterdir()] == [("file", "whole")]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").touch()
    with pytest.raises(PartError, match=r"folder/file cannot be written: .*; free space there, or make the folder wri"):
        write_whole(tmp_path / "folder" / "file", lambda place: place.touch())
