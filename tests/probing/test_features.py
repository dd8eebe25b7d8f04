"""Extraction: each view once whatever happened before, and features that are those of one view looked at alone."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tats_ray.data import part_files
from tats_ray.data.clips import load_view_clips
from tats_ray.data.guard import GuardConfig
from tats_ray.data.manifest import Manifest
from tats_ray.data.part_files import PartError
from tats_ray.probing.decoding import Views, decode_record
from tats_ray.probing.features import extract_here, layout_of, plan_extraction, tokens_gib
from tats_ray.probing.parts import FeatureError, read_features, read_tokens
from tats_ray.probing.work import ViewDecoder

GUARD = GuardConfig()
LOOKS = [(1.0, "in_order", True), (0.25, "in_order", False), (1.0, "reversed", False)]


class Counting(ViewDecoder):
    """Decodes in this process; counts, and fails where it is told to."""

    def __init__(self, fails: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        super().__init__(GUARD)
        self.seen: list[str] = []
        self.fails = fails

    def __call__(self, record, layout):
        self.seen.append(record.id)
        if record.id in self.fails:
            return Views(None, reason="it is gone")
        return decode_record(record, layout)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(part_files, "PART_VIDEOS", 4)


def plan(frozen, manifest, root, looks=LOOKS, *, segments=2, crops=3, seed=0, batch=5):
    layout = layout_of(frozen, segments=segments, crops=crops, short_videos=None)
    return plan_extraction(frozen, manifest, layout, looks, root=root, seed=seed, batch=batch, guard=GUARD)


def files_below(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def test_features_are_those_of_each_view_alone(frozen, train, tmp_path):
    extraction = plan(frozen, train, tmp_path)
    assert [list(part.rows) for part in extraction.parts()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    decoder = Counting()
    extract_here(frozen, train, extraction, decoder=decoder)
    assert sorted(decoder.seen) == sorted(train.table["id"].to_pylist())  # once for three ways of looking
    for reading in extraction.readings:
        found = read_features(extraction, reading, train)
        assert found.video_idx.tolist() == np.repeat(range(9), 6).tolist()
        tokens = read_tokens(extraction, reading) if reading.with_tokens else None
        for row, view in ((0, 0), (5, 3), (8, 5)):
            record = train.record(row)
            clips = load_view_clips(record, extraction.layout.clip, segments=2, crops=3)
            alone = frozen.encode(
                torch.from_numpy(clips[view].video)[None],
                keys=[f"{record.id}/{view}"],
                token_ratio=reading.token_ratio,
                order=reading.order,
                seed=0,
            )[0]
            slots = alone.reshape(2, -1, 16).mean(1)
            # float32; a batch of 5 and one of 1 may take other kernels
            assert np.allclose(found.slots[6 * row + view], slots, atol=1e-5)
            if tokens is not None:
                assert tokens.dtype == np.float16
                assert np.allclose(tokens[6 * row + view], alone, atol=2e-3)  # float16 of values of about 1


def test_an_extraction_goes_on_where_it_was_stopped(frozen, train, tmp_path):
    whole, cut = plan(frozen, train, tmp_path / "whole"), plan(frozen, train, tmp_path / "cut")
    extract_here(frozen, train, whole, decoder=Counting())
    first = Counting()

    def stop_after_one(videos):
        if videos and len(first.seen) >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_here(frozen, train, cut, decoder=first, advance=stop_after_one)
    assert [part.number for part in cut.missing()] == [1, 2]
    (cut.readings[1].folder / ".part_00001.slots.parquet.99.ab").write_bytes(b"half")  # of a process that was killed
    before = files_below(tmp_path / "cut")
    second = Counting()
    extract_here(frozen, train, cut, decoder=second)
    assert sorted(second.seen) == sorted(train.table["id"].to_pylist()[4:])
    after = files_below(tmp_path / "cut")
    assert {name: after[name] for name in before} == before  # no part was made twice
    for ours, theirs in zip(cut.readings, whole.readings, strict=True):
        assert np.array_equal(read_features(cut, ours, train).slots, read_features(whole, theirs, train).slots)
    third = Counting()
    extract_here(frozen, train, cut, decoder=third)
    assert third.seen == []


def test_a_process_that_is_killed_leaves_whole_parts(made, frozen, train, tmp_path):
    script = f"""
import os, signal, torch
from pathlib import Path
from tats_ray.data.guard import GuardConfig
from tats_ray.data.manifest import Manifest
from tats_ray.data import part_files
from tats_ray.probing import features, parts
from tats_ray.probing.frozen import FrozenEncoder
part_files.PART_VIDEOS = 4
frozen = FrozenEncoder.load(Path({str(made.folder)!r}), device=torch.device("cpu"))
manifest = Manifest.read({str(made.train)!r})
layout = features.layout_of(frozen, segments=2, crops=3, short_videos=None)
plan = features.plan_extraction(
    frozen, manifest, layout, {LOOKS!r}, root=Path({str(tmp_path)!r}), seed=0, batch=5, guard=GuardConfig()
)
write, written = parts.pq.write_table, []
def write_and_die(table, path, **options):
    written.append(path)
    if len(written) == 6:  # in the second part, half a file on the disk
        path.write_bytes(b"PAR1")
        os.kill(os.getpid(), signal.SIGKILL)
    write(table, path, **options)
parts.pq.write_table = write_and_die
features.extract_here(frozen, manifest, plan)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, timeout=90, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    extraction = plan(frozen, train, tmp_path)
    assert [part.number for part in extraction.missing()] == [1, 2]
    decoder = Counting()
    extract_here(frozen, train, extraction, decoder=decoder)
    assert len(decoder.seen) == 5
    assert [len(read_features(extraction, reading, train).slots) for reading in extraction.readings] == [54] * 3


def test_other_looks_are_added_and_other_questions_start_anew(frozen, train, test, tmp_path):
    plain = plan(frozen, train, tmp_path, [(1.0, "in_order", False)])
    extract_here(frozen, train, plain, decoder=Counting())
    before = files_below(tmp_path)
    both = plan(frozen, train, tmp_path, [(1.0, "in_order", True)])
    assert both.readings[0].folder == plain.readings[0].folder  # the same features, now with tokens beside them
    extract_here(frozen, train, both, decoder=Counting())
    assert {name: files_below(tmp_path)[name] for name in before} == before
    others = [
        plan(frozen, train, tmp_path, [(1.0, "in_order", False)], seed=1),
        plan(frozen, train, tmp_path, [(1.0, "in_order", False)], crops=1),
        plan(frozen, train, tmp_path, [(1.0, "in_order", False)], segments=3),
        plan(frozen, test, tmp_path, [(1.0, "in_order", False)]),
        plan(frozen, train, tmp_path, [(0.5, "in_order", False)]),
        plan(frozen, train, tmp_path, [(1.0, "shuffled", False)]),
        plan(replace(frozen, digest="other"), train, tmp_path, [(1.0, "in_order", False)]),
    ]
    assert len({one.readings[0].folder for one in others} | {plain.readings[0].folder}) == len(others) + 1
    assert len({path.parent for path in tmp_path.rglob("*") if path.is_file()}) == 1  # planning makes nothing


def test_videos_that_fail_are_rows_with_a_reason(frozen, train, tmp_path):
    ids = train.table["id"].to_pylist()
    extraction = plan(frozen, train, tmp_path)
    extract_here(frozen, train, extraction, decoder=Counting({ids[0], ids[5], ids[8]}))  # the last: a part of its own
    for reading in extraction.readings:
        found = read_features(extraction, reading, train)
        assert [(one.row, one.path, one.reason) for one in found.failures] == [
            (row, train.record(row).path, "it is gone") for row in (0, 5, 8)
        ]
        assert found.video_idx.tolist() == np.repeat([1, 2, 3, 4, 6, 7], 6).tolist()
        assert len(found.slots) == 36
    assert len(read_tokens(extraction, extraction.readings[0])) == 36
    none = plan(frozen, train, tmp_path / "none")
    extract_here(frozen, train, none, decoder=Counting(set(ids)))
    with pytest.raises(FeatureError, match=r"none of the 9 videos of .* could be decoded; the first is .*: it is gone"):
        read_features(none, none.readings[0], train)


def test_files_that_do_not_hold_each_view_once_are_refused(frozen, train, tmp_path):
    extraction = plan(frozen, train, tmp_path, [(1.0, "in_order", False)])
    extract_here(frozen, train, extraction, decoder=Counting())
    file = extraction.readings[0].folder / "part_00001.slots.parquet"
    table = pq.read_table(file)
    for wrong in (table.slice(1), table.slice(0, 23), table.take([0, *range(24)])):
        pq.write_table(wrong, file)
        with pytest.raises(FeatureError, match=r"part_00001.* do not hold each view of its videos once; remove"):
            read_features(extraction, extraction.readings[0], train)
    file.write_bytes(b"PAR1")
    with pytest.raises(FeatureError, match=r"part_00001.* cannot be read .*; remove .* extracted anew"):
        read_features(extraction, extraction.readings[0], train)


def test_a_full_disk_is_told(frozen, train, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PartError, match=r"cannot be written: .*; free space there"):
        extract_here(frozen, train, plan(frozen, train, tmp_path / "file"), decoder=Counting())


def test_short_videos_are_counted(frozen, train, tmp_path):
    long = replace(
        frozen, run=frozen.run.model_copy(update={"data": frozen.run.data.model_copy(update={"frame_stride": 5})})
    )
    extraction = plan(long, train, tmp_path, [(1.0, "in_order", False)], crops=1)
    extract_here(long, train, extraction, decoder=Counting())
    found = read_features(extraction, extraction.readings[0], train)
    assert (found.num_held, len(found.slots), found.failures) == (9, 18, [])


def test_the_room_that_tokens_take(frozen, train, tmp_path):
    extraction = plan(frozen, train, tmp_path)
    assert (
        tokens_gib(frozen, extraction) == 9 * 6 * 32 * 16 * 2 / 2**30
    )  # views, tokens, width, bytes; one look of three
    extract_here(frozen, train, extraction, decoder=Counting())
    assert read_tokens(extraction, extraction.readings[0]).nbytes == 9 * 6 * 32 * 16 * 2


def test_kept_views_are_decoded_once_for_several_encoders(train, tmp_path, frozen):
    gone = tmp_path / "gone.mp4"
    gone.write_bytes(Path(train.record(0).path).read_bytes())
    record = replace(train.record(0), path=str(gone))
    layout = layout_of(frozen, segments=2, crops=1, short_videos=None)
    with ViewDecoder(GUARD, keep_gib=1) as kept, ViewDecoder(GUARD) as forgetful:
        first = kept(record, layout)
        forgetful(record, layout)
        os.unlink(gone)
        assert kept(record, layout) is first
        assert "No such file" in forgetful(record, layout).reason
        assert "No such file" in kept(record, layout_of(frozen, segments=3, crops=1, short_videos=None)).reason


def test_the_manifest_of_one_video(frozen, train, tmp_path):
    one = Manifest.of([train.record(3)])
    extraction = plan(frozen, one, tmp_path, crops=1, segments=1)
    extract_here(frozen, one, extraction)  # with its own guarded decoder
    assert read_features(extraction, extraction.readings[0], one).slots.shape == (1, 2, 16)
