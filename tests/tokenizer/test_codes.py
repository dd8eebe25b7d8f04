"""Codes are encoded once, are those of the very clips of their keys, and what does not fit is refused."""

import json
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.encode_clips import main
from tats_ray.data.clips import ClipConfig, cut_clips, load_center_clip
from tats_ray.data.codes import ABOUT, SCHEMA, CodeCache, CodesError, Cut, part_file
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.encoding import FrozenTokenizer
from tats_ray.probing import parts
from tats_ray.training.state import CheckpointError

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))
CLIP = ClipConfig(num_frames=8, frame_stride=1, crop_size=16)
KNOBS = ["data.num_frames=8", "data.segments=2", "data.crops=3", "data.flip=true", "cluster.num_workers=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MADE["save_tokenizer"](tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def frozen(folder: Path) -> FrozenTokenizer:
    return FrozenTokenizer.load(folder, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos, the third of which is gone."""
    path = MADE["write_videos"](tmp_path_factory.mktemp("videos"))
    whole = Manifest.read(path)
    gone = replace(whole.record(2), path="/gone.mp4")
    Manifest.of([gone if row == 2 else whole.record(row) for row in range(5)]).write(path)
    return path


@pytest.fixture
def encode(folder: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Encode the videos in parts of two."""
    monkeypatch.setattr(parts, "PART_VIDEOS", 2)

    def run(out: Path, *knobs: str, checkpoint: Path = folder) -> int:
        return main(["--checkpoint", str(checkpoint), "--out", str(out), f"data.manifest={manifest}", *KNOBS, *knobs])

    return run


def record(manifest: Path, row: int) -> VideoRecord:
    return Manifest.read(manifest).record(row)


def test_codes_are_those_of_the_very_clips(
    encode: Callable[..., int],
    frozen: FrozenTokenizer,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of every row: cut the clip that its key names, and encode it."""
    assert encode(tmp_path / "codes") == 0
    said = capsys.readouterr().out
    assert "48 of 4 videos, 128 codes each" in said
    assert "1 videos could not be decoded" in said
    assert frozen.digest in said.replace("\n", "")
    cache = CodeCache.open(tmp_path / "codes", clip=CLIP, tokenizer=frozen.digest)
    for row in (0, 4):
        video = record(manifest, row)
        cuts = cache.cuts(video)
        assert [cut.start for cut in cuts] == [0.0] * 3 + [6.0] * 3 + [0.0] * 3 + [6.0] * 3
        assert [cut.flip for cut in cuts] == [False] * 6 + [True] * 6
        for cut in cuts:
            [clip] = cut_clips(video, CLIP, [(cut.start, cut.crop, cut.flip)])
            windows = torch.from_numpy(clip.video).unflatten(0, (2, 4))
            wanted = torch.cat([frozen.tokenizer.codes(window[None])[0] for window in windows])
            ranks = torch.cat([frozen.tokenizer.importance(window[None])[0] for window in windows])
            found = cache.read(video, cut)
            assert found.codes.tolist() == wanted.tolist()
            assert np.array_equal(found.importance, ranks.half().numpy())
    file = pq.read_table(part_file(tmp_path / "codes", 0))
    assert file.schema.equals(SCHEMA)
    assert file["codes"].type == pa.list_(pa.int32())
    assert set(file["stride"].to_pylist()) == {1}
    assert set(file["tokenizer"].to_pylist()) == {frozen.digest}


def test_what_was_encoded_is_left_and_what_is_missing_is_made(encode: Callable[..., int], tmp_path: Path) -> None:
    out = tmp_path / "codes"
    assert encode(out) == 0
    before = {number: part_file(out, number).read_bytes() for number in range(3)}
    part_file(out, 1).unlink()
    times = [part_file(out, number).stat().st_mtime_ns for number in (0, 2)]
    with pytest.raises(CodesError, match=r"1 of 3 parts are missing in .*part_00001.parquet"):
        CodeCache.open(out, clip=CLIP)
    assert encode(out) == 0
    assert {number: part_file(out, number).read_bytes() for number in range(3)} == before
    assert [part_file(out, number).stat().st_mtime_ns for number in (0, 2)] == times


def test_what_does_not_fit_is_refused(
    encode: Callable[..., int],
    frozen: FrozenTokenizer,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "codes"
    assert encode(out) == 0
    cache = CodeCache.open(out, clip=CLIP)
    video = record(manifest, 0)
    cut = cache.cuts(video)[0]
    for other in (
        replace(cut, crop=replace(cut.crop, x=cut.crop.x + 1)),
        replace(cut, start=cut.start + 1),
    ):
        with pytest.raises(CodesError, match=r"has no codes of .* for Cut\(.*; the nearest is Cut\("):
            cache.read(video, other)
    with pytest.raises(CodesError, match=r"has no codes of .* encode the manifest it is in"):
        cache.cuts(replace(video, id="another"))
    with pytest.raises(CodesError, match=r"could not be encoded: .*"):
        cache.cuts(record(manifest, 2))
    with pytest.raises(CodesError, match=f"are of the tokenizer {frozen.digest[:12]}, not of abcabcabcabc"):
        CodeCache.open(out, clip=CLIP, tokenizer="abc" * 20)
    with pytest.raises(CodesError, match=r"of other clips: data.crop_size is 32, was 16; encode these clips"):
        CodeCache.open(out, clip=CLIP.model_copy(update={"crop_size": 32}))
    with pytest.raises(CodesError, match="holds no codes"):
        CodeCache.open(tmp_path, clip=CLIP)
    assert encode(out, "data.flip=false") == 1
    assert "holds other codes: flips was True, is False" in capsys.readouterr().err


def test_damaged_rows_are_refused(encode: Callable[..., int], manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "codes"
    assert encode(out) == 0
    video = record(manifest, 0)

    def damaged(change: Callable[[dict[str, Any]], None]) -> None:
        rows = pq.read_table(part_file(out, 0)).to_pylist()
        change(rows[0])
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), part_file(out, 0), row_group_size=16)
        cache = CodeCache.open(out, clip=CLIP)
        cache.read(video, cache.cuts(video)[0])

    whole = part_file(out, 0).read_bytes()
    for change, says in (
        (lambda row: row["importance"].__setitem__(3, np.float16("nan")), "as many finite importances"),
        (lambda row: row["codes"].__setitem__(3, 8**6), "does not hold 128 codes below 262144"),
        (lambda row: row["codes"].pop(), "does not hold 128 codes"),
        (lambda row: row.update(tokenizer="f" * 64), "holds codes of the tokenizer ffffffffffff among those of"),
    ):
        with pytest.raises(CodesError, match=says):
            damaged(change)
        part_file(out, 0).write_bytes(whole)
    part_file(out, 0).write_bytes(whole[:-20])
    with pytest.raises(CodesError, match="cannot be read"):
        CodeCache.open(out, clip=CLIP)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        (["data.num_frames=6"], "window of 4 frames must divide the clip, got 6 frames; take 8"),
        (["data.frame_stride=2", "data.fps=4"], "give one of data.frame_stride=2 and data.fps=4"),
        (["data.segment=2"], "did you mean data.segments"),
        (["data.manifest=/nowhere.parquet"], "no such manifest file: /nowhere.parquet"),
        (["data.manifest=null"], "data.manifest is not set"),
    ],
)
def test_wrong_commands_are_refused_before_anything_is_written(
    encode: Callable[..., int], tmp_path: Path, knobs: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(tmp_path / "codes", *knobs) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "codes").exists()


def test_a_tokenizer_that_was_changed_is_refused(tmp_path: Path, save_run: Any, small_run: Any, manifest: Path) -> None:
    folder = MADE["save_tokenizer"](tmp_path)
    settings = folder / "run.yaml"
    settings.write_text(settings.read_text().replace("keep_ratio: 0.75", "keep_ratio: 0.8"))
    with pytest.raises(CheckpointError, match="is not the one that was recorded with it"):
        FrozenTokenizer.load(folder, device=torch.device("cpu"))
    encoder = save_run(small_run("encoder", manifest=manifest, results=tmp_path))
    with pytest.raises(CheckpointError, match=r"holds no tokenizer; name a run of pipelines/train_tokenizer.py"):
        FrozenTokenizer.load(encoder, device=torch.device("cpu"))


def test_a_clip_in_the_middle_is_one_of_the_keys(encode: Callable[..., int], manifest: Path, tmp_path: Path) -> None:
    """The clip that validation looks at, where one clip a video is encoded."""
    assert encode(tmp_path / "codes", "data.segments=1", "data.crops=1", "data.flip=false") == 0
    cache, video = CodeCache.open(tmp_path / "codes", clip=CLIP), record(manifest, 1)
    middle = load_center_clip(video, CLIP)
    assert cache.cuts(video) == [Cut(3.0, middle.crop, False)]
    assert json.loads((tmp_path / "codes" / ABOUT).read_text())["manifest"] == Manifest.read(manifest).hash
