"""Tar shards: the bytes that a listing points at are the members', found without reading them."""

import gzip
import io
import json
import tarfile

import pytest

from tats_ray.data import places, shards
from tats_ray.data.manifest import ManifestError
from tats_ray.data.shards import list_shard

VIDEO = bytes(range(256)) * 9  # no multiple of a tar block


def test_offsets_point_at_the_bytes_of_each_member(tmp_path, tar_of):
    long = "a folder/" + "very " * 40 + "long name.mkv"
    members = {"a.mp4": VIDEO, "b/ünï 1.MP4": VIDEO[:3], long: VIDEO[5:], "c.webm": b"", "notes.txt": b"x" * 700}
    shard = tar_of(tmp_path / "s.tar", members)
    found = {source.member: source for source, _ in list_shard(str(shard))}
    assert list(found) == ["a.mp4", "b/ünï 1.MP4", long, "c.webm"]
    content = shard.read_bytes()
    for name, source in found.items():
        assert source.path == str(shard)
        assert content[source.offset : source.offset + source.num_bytes] == members[name]


def test_labels_stand_beside_their_videos(tmp_path, tar_of):
    members = {
        "a.cls": b"3\n",  # before its video
        "a.mp4": VIDEO,
        "b.mp4": VIDEO,
        "b.json": json.dumps({"label": 4, "caption": "a cat"}).encode(),
        "c.rgb.mp4": VIDEO,
        "c.cls": b"5",
        "d/e.mp4": VIDEO,
        "e.cls": b"6",  # of another folder
        "f.mp4": VIDEO,
        "f.json": b'{"caption": "no label"}',
        "./g.x.avi": VIDEO,
        "./g.cls": b"-1",
    }
    found = {source.member: label for source, label in list_shard(str(tar_of(tmp_path / "s.tar", members)))}
    assert found == {"a.mp4": 3, "b.mp4": 4, "c.rgb.mp4": 5, "d/e.mp4": None, "f.mp4": None, "./g.x.avi": -1}


def test_links_folders_and_hidden_members_are_no_videos(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name, kind in (("d.mp4", tarfile.DIRTYPE), ("l.mp4", tarfile.SYMTYPE), ("._a.mp4", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.mp4"
            archive.addfile(member, io.BytesIO())
        archive.addfile(tarfile.TarInfo("a.mp4"), io.BytesIO())
    assert [source.member for source, _ in list_shard(str(tmp_path / "s.tar"))] == ["a.mp4"]


def test_the_videos_themselves_are_not_read(tmp_path, tar_of, monkeypatch):
    shard = tar_of(tmp_path / "s.tar", {f"{number}.mp4": b"x" * 1_000_000 for number in range(3)})
    read = []

    class Counting(io.FileIO):
        def read(self, size=-1):
            read.append(size)
            return super().read(size)

    monkeypatch.setattr(places, "open", lambda path, mode: Counting(path), raising=False)
    assert len(list_shard(str(shard))) == 3
    assert -1 not in read
    assert sum(read) < 50_000


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.mp4": VIDEO, "a.cls": b"cat"}, r"s\.tar, member a\.cls: the label must be an integer, got 'cat'"),
        ({"a.mp4": VIDEO, "a.cls": b"\xff"}, r"member a\.cls: the label must be an integer"),
        ({"a.mp4": VIDEO, "a.cls": b"1.5"}, r"member a\.cls: the label must be an integer, got 1\.5"),
        ({"a.mp4": VIDEO, "a.json": b'{"label": "cat"}'}, r"member a\.json: the label must be an integer, got 'cat'"),
        ({"a.mp4": VIDEO, "a.json": b'{"label": true}'}, r"member a\.json: the label must be an integer, got True"),
        ({"a.mp4": VIDEO, "a.json": b"{"}, r"member a\.json: the label must be an integer, got 'no JSON'"),
        ({"a.txt": b"text"}, r"s\.tar holds no video; looked for .*\.mp4"),
        ({}, r"s\.tar is an empty tar file"),
    ],
)
def test_broken_shards_say_what_is_wrong(tmp_path, tar_of, members, message):
    with pytest.raises(ManifestError, match=message):
        list_shard(str(tar_of(tmp_path / "s.tar", members)))


@pytest.mark.parametrize("name", ["s.tar.gz", "s.tar"])
def test_compressed_shards_are_refused_with_the_way_out(tmp_path, tar_of, name):
    plain = tar_of(tmp_path / "plain.tar", {"a.mp4": VIDEO})
    (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(ManifestError, match=rf"{name} is compressed \(gzip\), .*unpack it to a plain \.tar"):
        list_shard(str(tmp_path / name))


def test_damaged_shards_are_refused(tmp_path, tar_of):
    shard = tar_of(tmp_path / "s.tar", {"a.mp4": VIDEO, "b.mp4": VIDEO})
    shard.write_bytes(shard.read_bytes()[:1500])
    with pytest.raises(ManifestError, match=r"s\.tar is no tar file, or a damaged one: .*; repair it or leave it out"):
        list_shard(str(shard))
    shard.write_bytes(b"no tar at all" * 100)
    with pytest.raises(ManifestError, match=r"s\.tar is no tar file, or a damaged one"):
        list_shard(str(shard))


def test_every_suffix_of_a_shard_is_known():
    assert all(shards.is_shard(f"/data/x{suffix.upper()}") for suffix in shards.SHARD_SUFFIXES)
    assert not shards.is_shard("/data/tar")
