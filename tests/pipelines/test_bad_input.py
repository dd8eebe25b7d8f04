"""What a user can get wrong: one message that names it, shows it and says the way out; and nothing is left behind."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Command = Callable[..., Any]

VALUES = [
    ("seed=-1", r"seed: .*greater than or equal to 0, got '-1'"),
    ("seed=1.5", r"seed: .*valid integer.*, got '1\.5'"),
    ("seed=abc", r"seed: .*valid integer.*, got 'abc'"),
    ("seed=true", r"seed: must be int, got true"),
    ("seed=", r"seed: .*valid integer.*, got ''"),
    ("training.steps=0", r"training\.steps: .*greater than or equal to 1, got '0'"),
    ("training.steps=1e3", r"training\.steps: .*valid integer.*, got '1e3'"),
    ("training.steps=12:30", r"training\.steps: .*valid integer.*, got '12:30'"),
    ("training.steps=true", r"training\.steps: must be int \| null, got true"),
    ("training.steps=null", r"exactly one of training\.epochs and training\.steps .* epochs=None and steps=None"),
    ("training.epochs=2", r"exactly one of training\.epochs and training\.steps .* epochs=2\.0 and steps=4; set the"),
    ("training.global_batch=0", r"training\.global_batch: .*greater than or equal to 1, got '0'"),
    ("training.micro_batch=two", r"training\.micro_batch: .*valid integer.*, got 'two'"),
    ("training.precision=fp16", r"training\.precision: .*'bf16' or 'fp32', got 'fp16'"),
    ("training.compile=maybe", r"training\.compile: .*valid boolean, got 'maybe'"),
    ("training.validate_every=0", r"training\.validate_every: .*greater than or equal to 1, got '0'"),
    ("training.keep_checkpoints=-1", r"training\.keep_checkpoints: .*greater than or equal to 1, got '-1'"),
    ("data.flip=1", r"data\.flip: .*valid boolean, got '1'"),
    ("data.crop_scales=[2.0]", r"data\.crop_scales\.0: .*less than or equal to 1, got '2\.0'"),
    ("data.crop_scales=0.5", r"data\.crop_scales: .*valid tuple, got '0\.5'"),
    ("data.short_videos=wrap", r"data\.short_videos: .*'hold', 'loop' or 'refuse', got 'wrap'"),
    ("data.held_out=0", r"data\.held_out: .*greater than or equal to 1, got '0'"),
    ("data.max_failed_share=1.5", r"data\.max_failed_share: .*less than or equal to 1, got '1\.5'"),
    ("data.num_frames=5", r"num_frames must be a multiple of tubelet_size, got 5 frames"),
    ("data.views_per_decode=3", r"data\.views_per_decode must divide the clips .*, got 3 and 4"),
    ("data.crop_size=18", r"crop_size must be a multiple of patch_size, got 18 pixels and patches of 4; try 16"),
    ("model.encoder.num_heads=5", r"embed_dim must be a multiple of num_heads, got \d+ and 5"),
    ("model.positions=2d", r"model\.positions: .*'1d' or '3d', got '2d'"),
    ("masking.mask_ratio=1", r"masking\.mask_ratio: .*less than 1, got '1'"),
    ("masking.mask_ratio=.nan", r"masking\.mask_ratio: .*valid number.*, got '\.nan'"),
    ("masking.mask_ratio=0.99", r"masking\.mask_ratio must leave both visible and hidden tokens, got 0\.99"),
    ("masking.visible.kind=tatts", r"masking\.visible\.kind: must be one of random \| tube .*, got 'tatts'"),
    ("masking.visible.kind=[]", r"masking\.visible\.kind: must be one of random \| tube .*, got \[\]"),
    ("masking.visible.embed_dim=33", r"masking\.visible\.embed_dim must be a multiple of masking\.visible\.num_heads"),
    ("optim.betas=0.9", r"optim\.betas: .*valid tuple, got '0\.9'"),
    ("optim.betas=[0.9]", r"optim\.betas\.1: .*required, got \['0\.9'\]"),
    ("optim.weight_decay=inf", r"optim\.weight_decay: must be finite, got inf"),
    ("optim.base_learning_rate=fast", r"optim\.base_learning_rate: .*valid number.*, got 'fast'"),
    ("optim.max_grad_norm={a: 1}", r"optim\.max_grad_norm: .*valid number, got \{'a': '1'\}"),
    ("cluster.num_workers=-1", r"cluster\.num_workers: .*greater than or equal to 0, got '-1'"),
    (
        "cluster.num_workers=3",
        r"training\.global_batch must be a multiple of cluster\.num_workers, got 4 and 3; try .*=6",
    ),
    ("cluster.cpus_per_worker=0", r"cluster\.cpus_per_worker: .*greater than or equal to 1, got '0'"),
    ("cluster.use_gpu=yes", r"cluster\.use_gpu: .*valid boolean, got 'yes'"),
    ("name=a/b", r"name: .*match pattern .*, got 'a/b'"),
    ("name=..", r"name: .*match pattern .*, got '\.\.'"),
    ("name=", r"name: .*match pattern .*, got ''"),
    ("name=[", r"the value of name cannot be read, got '\[': quote it"),
    ("seed", r"an override must read path=value, got 'seed'; --help"),
    ("=1", r"an override must read path=value, got '=1'; --help"),
    ("mask_ratio=0.5", r"there is no knob 'mask_ratio'; did you mean masking\.mask_ratio\?"),
    ("training.step=3", r"there is no knob 'training\.step'; did you mean training\.steps"),
    ("masking.visible=tube", r"there is no knob 'masking\.visible'; did you mean masking\.visible\.kind"),
    ("data.num_frames.x=1", r"there is no knob 'data\.num_frames\.x'; did you mean"),
    (
        "masking.visible.kind=tube masking.visible.ppo.clip_eps=1",
        r"belongs to another kind .*; set masking\.visible\.kind",
    ),
]

PLACES = [
    ("", r"data\.manifest is not set; index your videos first: python pipelines/index_videos.py"),
    ("data.manifest=none.parquet", r"no such manifest file: \S+/none\.parquet; make one with"),
    ("data.manifest={folder}", r"the manifest {folder} cannot be read: .*directory"),
    ("data.manifest={text}", r"{text} is not a Parquet file .*; make one with"),
    ("data.manifest={text}/m.parquet", r"no such manifest file: {text}/m\.parquet; make one with"),
    ("data.manifest=[]", r"data\.manifest must be .*, got \[\]"),
    ("data.manifest={{path: 1}}", r"data\.manifest must be .*, got \{{'path': '1'\}}"),
    ("data.manifest=[{{weight: 2}}]", r"data\.manifest\.0\.path: .*required"),
    ("data.manifest=[{{path: {manifest}, weight: -1}}]", r"data\.manifest\.0\.weight: .*greater than .*, got '-1'"),
    ("data.manifest={manifest} data.num_frames=8", r"data\.num_frames=8 .*longer than every video .*longest: 6 frames"),
    ("data.manifest={manifest} results={text}/x", r"results={text}/x cannot be written: .*; give results="),
    ("data.manifest={manifest} results=/proc/x", r"results=/proc/x cannot be written: .*; give results="),
    ("data.manifest={manifest} init={folder}", r"init={folder} is neither an intact checkpoint nor .*; name a folder"),
    ("data.manifest={manifest} init={text}", r"init={text} is neither an intact checkpoint nor .*; name a folder"),
    ("data.manifest={manifest} tracking.uri=sqlite:///here.db", r"tracking\.uri must be absolute"),
    (
        "data.manifest={manifest} tracking.uri=http://127.0.0.1:9",
        r"MLflow server http://127\.0\.0\.1:9 does not .*; start",
    ),
    (
        "data.manifest={manifest} tracking.uri=sqlite:///{text}/m.db",
        r"MLflow database {text}/m\.db cannot be written: .*; set tracking\.uri",
    ),
    ("data.manifest={manifest} tracking.uri=ftp://host/x", r"tracking\.uri .*ftp"),
    ("data.manifest={manifest} tracking.uri=http://:x", r"tracking\.uri .*http://:x|MLflow server http://:x"),
]

TABLES: list[tuple[str, Callable[[pa.Table], pa.Table], str]] = [
    ("a column is missing", lambda table: table.drop_columns(["fps"]), r"must have the columns .*; make it anew"),
    ("a column is unknown", lambda table: table.append_column("x", table["fps"]), r"must have the columns .*; make it"),
    (
        "labels are texts",
        lambda table: replaced(table, "label", pa.array(["a"] * 6)),
        r"'label' must be int64, .*string;",
    ),
    (
        "frames are floats",
        lambda table: replaced(table, "num_frames", pa.array([6.0] * 6)),
        r"must be int64, it is double",
    ),
    ("a path is missing", lambda table: replaced(table, "path", pa.array([None, *"abcde"])), r"'path' lacks values;"),
    ("an id occurs twice", lambda table: replaced(table, "id", pa.array([*"aabcde"])), r"the id 'a' occurs 2 times;"),
    ("there are no rows", lambda table: table.slice(0, 0), r"has no rows; make it anew"),
    ("there is one row", lambda table: table.slice(0, 1), r"two videos|at least 2"),
    ("no video has frames", lambda table: replaced(table, "num_frames", pa.array([0] * 6)), r"longer than every video"),
]

FILES = [
    (b"a: [", r"is not YAML"),
    (b"\x00", r"is not YAML"),
    (b"name: \xe4\xff", r"cannot be read"),
    (b"- 1", r"must hold settings by name, got list"),
    (b"", r"must hold settings by name, got NoneType"),
    (b"masking: {mask_rato: 0.5}", r"there is no knob 'masking\.mask_rato'; did you mean masking\.mask_ratio"),
    (b"data: 5", r"data: .*got '5'"),
    (b"training: {steps: true}", r"training\.steps: must be int \| null, got true"),
    (b"seed: &a [*a]", r"is not YAML"),
    (b"seed: !!int x", r"is not YAML"),
    (b"? [a, b]\n: 1", r"is not YAML"),
    (b"true: 1", r"keys should be strings, got True"),
]


def replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


@pytest.fixture
def refused(command: Command, tmp_path: Path) -> Callable[..., None]:
    """Run a wrong command; see that it ends with one line, soon, and that nothing was made."""

    def run(name: str, arguments: list[str], message: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        done = command(name, *arguments)
        assert done.status not in (0, None)
        assert re.match(rf"error: .*({message})", done.err), done.err
        assert done.err.count("\n") == 1, done.err
        assert done.out == ""
        made = [path for path in tmp_path.rglob("*") if path not in before]
        assert [path for path in made if path.name == "run.yaml" or re.fullmatch(r"\d{4}", path.name)] == []

    return run


@pytest.mark.parametrize(("arguments", "message"), VALUES)
def test_a_wrong_value(refused: Callable[..., None], small: list[str], arguments: str, message: str) -> None:
    changed = arguments.split(" ") if arguments.startswith("masking.visible.kind=tube ") else [arguments]
    refused("pretrain", [*small, *changed], message)


@pytest.mark.parametrize(("arguments", "message"), PLACES)
def test_a_wrong_place(
    refused: Callable[..., None], small: list[str], manifest: Path, tmp_path: Path, arguments: str, message: str
) -> None:
    named = {"manifest": manifest, "folder": tmp_path / "folder", "text": tmp_path / "text"}
    named["folder"].mkdir()
    named["text"].write_text("no table, no checkpoint")
    words = [word for word in re.split(r" (?=\w+[.=])", arguments.format(**named)) if word]
    refused("pretrain", [*small, *words], message.format(**named))


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in TABLES], ids=[row[0] for row in TABLES])
def test_a_wrong_manifest(
    refused: Callable[..., None],
    small: list[str],
    manifest: Path,
    tmp_path: Path,
    change: Callable[[pa.Table], pa.Table],
    message: str,
) -> None:
    pq.write_table(change(pq.read_table(manifest)), tmp_path / "wrong.parquet")
    refused("pretrain", [*small, "data.manifest=wrong.parquet"], message)


@pytest.mark.parametrize(("content", "message"), FILES)
def test_a_wrong_file_of_settings(refused: Callable[..., None], tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "run.yaml.given").write_bytes(content)
    refused("pretrain", ["--config", "run.yaml.given"], rf"--config run\.yaml\.given.*{message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--recipe tinny", r"there is no recipe 'tinny'; did you mean tiny\?"),
        ("--recipe qqqq", r"there is no recipe 'qqqq' There are: tiny"),
        ("--config none.yaml", r"--config none\.yaml cannot be read"),
        ("--config .", r"--config \. cannot be read"),
    ],
)
def test_a_wrong_start(refused: Callable[..., None], arguments: str, message: str) -> None:
    refused("pretrain", arguments.split(), message)


def test_a_checkpoint_of_another_model(
    command: Command, refused: Callable[..., None], small: list[str], manifest: Path, tmp_path: Path
) -> None:
    start = [*small, f"data.manifest={manifest}"]
    assert command("pretrain", *start, "training.steps=2", "name=first").status == 0
    init = tmp_path / "results" / "first" / "0001"
    done = command("pretrain", *start, f"init={init}", "model.encoder.embed_dim=48", "name=second")
    assert done.status == 1
    assert re.match(
        rf"error: {init}/checkpoints/step_00000002/autoencoder\.safetensors does not fit this model", done.err
    )
    assert done.err.count("\n") == 1


def test_a_cluster_that_is_not_there(
    refused: Callable[..., None], small: list[str], manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    given = [*small, f"data.manifest={manifest}", "cluster.num_workers=1"]
    refused("pretrain", given, r"the Ray cluster of RAY_ADDRESS=127\.0\.0\.1:9 does not answer .*; give the address")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none", r"no such folder, list or video: \S+/none"),
        (".", r"no videos found in the folder"),
        ("{text}/below", r"no such folder, list or video: {text}/below"),
        ("{text}.csv", r"{text}\.csv, line 2: the label must be an integer, got 'x'"),
        ("{text}.parquet", r"{text}\.parquet is not a Parquet file"),
        ("{text}.txt", r"{text}\.txt is neither a video by its suffix nor a list in UTF-8"),
        ("{text}.empty", r"{text}\.empty names no video"),
        ("{text} --workers 0", r"workers must be at least 1, got 0"),
        (". --split ucf101:none.txt --classes {text}", r"{text}, line 1 must read '1 ApplyEyeMakeup'.*, got 'a b c d'"),
        (". --split ucf:none.txt", r"--split must read SET:FILE, the set one of ucf101, .*, got 'ucf:none\.txt'"),
        (". --split epic100:none.csv", r"a split of epic100 needs --label verb\|noun"),
        (". --split ssv2:{text}.json --classes {text}.json", r"{text}\.json is not a JSON file"),
        (
            ". --split kinetics400:{text}.csv",
            r"{text}\.csv must be a CSV file with the columns \['label', .*'path', 'lab",
        ),
        (". --split hmdb51:. --fold 1 --part test", r"\S+ holds no file <class>_test_split1\.txt"),
        (". --split diving48:/none/x.json", r"no class file Diving48_vocab\.json beside /none/x\.json; put it there"),
        (". --part test", r"--part test is for --split SET:FILE; add that, or leave --part out"),
    ],
)
def test_no_videos(refused: Callable[..., None], tmp_path: Path, source: str, message: str) -> None:
    text = tmp_path / "text"
    text.write_text("a b c d")
    (tmp_path / "text.csv").write_text("path,label\na.mp4,x\n")
    (tmp_path / "text.parquet").write_text("no table")
    (tmp_path / "text.json").write_text("no table")
    (tmp_path / "text.txt").write_bytes(b"\xff not a list of videos at all\n")
    (tmp_path / "text.empty").touch()
    refused("index_videos", [*source.format(text=text).split(), "--out", "m.parquet"], message.format(text=text))
