"""Codes are encoded once, are those of the very clips of their keys, and what does not fit is refused."""

import copy
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
from tats_ray.cluster.decode_task import decode_rows
from tats_ray.config.error import ConfigError
from tats_ray.config.run import TrainRun
from tats_ray.data import part_files
from tats_ray.data.clips import ClipConfig, cut_clips, load_center_clip
from tats_ray.data.code_rows import ABOUT, SCHEMA, CodesError, Cut
from tats_ray.data.codes import CodeCache
from tats_ray.data.guard import GuardConfig
from tats_ray.data.loader import ShareSpec, threaded_shares
from tats_ray.data.manifest import Manifest, VideoRecord
from tats_ray.data.part_files import part_file
from tats_ray.data.samples import load_samples
from tats_ray.driver import prepare
from tats_ray.encoding import FrozenTokenizer
from tats_ray.held_out import load_held_out
from tats_ray.training.context import LocalContext
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
    monkeypatch.setattr(part_files, "PART_VIDEOS", 2)

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
    assert "48 of 4 videos, 64 codes each" in said
    assert "1 videos could not be decoded" in said
    assert frozen.digest in said.replace("\n", "")
    cache = CodeCache.open(tmp_path / "codes", clip=CLIP, tokenizer=frozen.digest)
    for row in (0, 4):
        video = record(manifest, row)
        assert (video.width, video.height) == (48, 32)
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
            # As float16, of float32 that other batches round otherwise.
            assert np.allclose(found.importance, ranks.numpy(), rtol=2**-10, atol=0)
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
    with pytest.raises(CodesError, match=r"of other clips: data.short_videos is 'loop', was 'hold'"):
        CodeCache.open(out, clip=CLIP.model_copy(update={"short_videos": "loop"}))
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
        (lambda row: row["codes"].__setitem__(3, 8**6), "does not hold 64 codes below 262144"),
        (lambda row: row["codes"].pop(), "does not hold 64 codes"),
        (lambda row: row.update(tokenizer="f" * 64), "holds codes of the tokenizer ffffffffffff among those of"),
    ):
        with pytest.raises(CodesError, match=says):
            damaged(change)
        part_file(out, 0).write_bytes(whole)
    part_file(out, 0).write_bytes(whole[:-20])
    with pytest.raises(CodesError, match="cannot be read"):
        CodeCache.open(out, clip=CLIP)


def test_importance_that_float16_cannot_hold_is_refused(frozen: FrozenTokenizer) -> None:
    loud = replace(frozen, tokenizer=copy.deepcopy(frozen.tokenizer))
    with torch.no_grad():
        loud.tokenizer.scorer.project.weight.mul_(1e9)
    video = np.random.default_rng(0).integers(0, 256, (1, 4, 16, 16, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="importance above 65504 cannot be kept as float16"):
        loud.encode(video)


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
    """The clip that validation looks at, where one clip a video is encoded, as it is and mirrored."""
    assert encode(tmp_path / "codes", "data.segments=1", "data.crops=1") == 0
    cache, video = CodeCache.open(tmp_path / "codes", clip=CLIP), record(manifest, 1)
    plain = Cut(3.0, load_center_clip(video, CLIP).crop, False)
    assert cache.cuts(video) == [plain, replace(plain, flip=True)]
    assert cache.middle(video) == plain
    assert json.loads((tmp_path / "codes" / ABOUT).read_text())["manifest"] == Manifest.read(manifest).hash


def spec(out: Path, *, steps: int = 3) -> ShareSpec:
    return ShareSpec(clip=CLIP, seed=3, steps=range(steps), global_batch=4, micro_batch=3, codes=out)


def test_training_takes_the_very_clips_with_their_codes(
    encode: Callable[..., int], frozen: FrozenTokenizer, manifest: Path, tmp_path: Path
) -> None:
    assert encode(tmp_path / "codes") == 0
    shares = list(threaded_shares(Manifest.read(manifest), spec(tmp_path / "codes"), threads=2))
    batches = [batch for share in shares for batch in share.batches if len(batch)]
    assert sum(map(len, batches)) + sum(len(share.failures) for share in shares) == 12
    assert {reason.partition(":")[0] for share in shares for _, reason in share.failures} == {"it could not be encoded"}
    for batch in batches:
        assert batch.codes is not None
        assert batch.importance is not None
        assert torch.equal(batch.codes, frozen.tokenizer.codes(batch.video))
        assert torch.equal(batch.importance, frozen.tokenizer.importance(batch.video).half().float())
    first = batches[0].codes
    again = next(iter(threaded_shares(Manifest.read(manifest), spec(tmp_path / "codes"), threads=1))).batches[0].codes
    assert first is not None
    assert again is not None
    assert torch.equal(first, again)
    task = decode_rows(
        Manifest.read(manifest).table.append_column("position", pa.array(range(5))),
        config=CLIP,
        seed=3,
        guard=GuardConfig(),
        codes=tmp_path / "codes",
    )
    for row in (0, 1, 3, 4):
        [sample] = load_samples(record(manifest, row), CLIP, seed=3, position=row, codes=tmp_path / "codes")
        assert sample.coded is not None
        assert np.array_equal(task["codes"][row], sample.coded.codes)
        assert np.array_equal(task["importance"][row], sample.coded.importance)
    assert task["failed"].tolist() == [False, False, True, False, False]


def test_a_run_on_codes_is_checked_before_it_starts(
    encode: Callable[..., int],
    frozen: FrozenTokenizer,
    manifest: Path,
    tmp_path: Path,
    small_run: Callable[..., TrainRun],
) -> None:
    out = tmp_path / "codes"
    assert encode(out) == 0
    knobs = {"data.frame_stride": 1, "data.num_frames": 8, "data.flip": False, "data.codes": str(out)}

    def prepared(**changes: object) -> TrainRun:
        own = {**knobs, **{path.replace("__", "."): value for path, value in changes.items()}}
        return prepare(small_run("coded", manifest=manifest, results=tmp_path, knobs=own))[0]

    run = prepared()
    assert run.data.tokenizer == frozen.digest
    held_out = load_held_out(run, Manifest.read(manifest).select([0, 3]), LocalContext(torch.device("cpu")))
    assert held_out.batch.codes is not None
    assert torch.equal(held_out.batch.codes, frozen.tokenizer.codes(held_out.batch.video))
    with pytest.raises(CodesError, match=r"of other clips: data.num_frames is 4, was 8"):
        prepared(data__num_frames=4)
    with pytest.raises(CodesError, match="not of deadbeef"):
        prepared(data__tokenizer="deadbeef")
    with pytest.raises(ConfigError, match="has 64 codes a clip, and the model cuts it into 16 tokens"):
        prepared(model__patch_size=8)
    with pytest.raises(ConfigError, match=r"data.flip must be false and data.views_per_decode 1, got true and 1"):
        prepared(data__flip=True)
    with pytest.raises(ConfigError, match=r"says whose codes data.codes are, which is not set"):
        prepared(data__codes=None, data__tokenizer="deadbeef")
    more = MADE["write_videos"](tmp_path / "more", count=7)
    with pytest.raises(CodesError, match="has no codes of 7 of the 7 videos"):
        prepare(small_run("coded", manifest=more, results=tmp_path, knobs=knobs))
