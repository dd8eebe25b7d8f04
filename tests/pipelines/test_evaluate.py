"""The command as a user meets it: its table, and one message for everything that can be wrong."""

import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tats_ray.config.files import read_run, to_yaml
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.data.manifest import Manifest

MADE = runpy.run_path(str(Path(__file__).parents[1] / "probing" / "made.py"))
PIPELINES = Path(__file__).parents[2] / "pipelines"
ALONE = ["cluster.num_workers=0", "knn.neighbors=3", "crops=1", "attentive.epochs=1", "attentive.num_heads=2"]
TASKS = ("knn", "ridge", "attentive")
Command = Callable[..., Any]
WITHOUT_RAY = f"""
import sys
sys.path.insert(0, {str(PIPELINES.parent)!r})
from pipelines.evaluate import main
status = main(sys.argv[1:])
assert not [name for name in sys.modules if name.partition(".")[0] == "ray"], "ray was imported"
sys.exit(status)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small_run: Callable[..., TrainRun]) -> Any:
    return MADE["make"](tmp_path_factory.mktemp("probed"), small_run)


@pytest.fixture
def asked(made: Any) -> list[str]:
    return ["--checkpoint", str(made.checkpoint), "--data", str(made.train), str(made.test), *ALONE]


def test_results_are_a_table_and_where_everything_is_and_alone_no_ray_is_imported(
    made: Any, asked: list[str], tmp_path: Path, environment: Callable[[Path], dict[str, str]]
) -> None:
    test = Manifest.read(made.test)
    lost = replace(test.record(2), path="/gone.mp4")
    path = tmp_path / "lost.parquet"
    Manifest.of([lost if row == 2 else test.record(row) for row in range(6)]).write(path)
    asked[asked.index(str(made.test))] = str(path)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, *asked, "--task", "ridge", "health", "knn", "attentive"],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        cwd=tmp_path,
        env=environment(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"│ (\w+) +│ +(\d+) % │ +(\S+) \[(\S+), (\S+)\] │ +(\S+) │ +(\S+) │ +(\S+) │", done.stdout)
    assert [row[:2] for row in rows] == [(task, ratio) for ratio in ("100", "25") for task in TASKS]
    assert all(float(row[3]) <= float(row[2]) <= float(row[4]) for row in rows)
    assert {row[5] for row in rows} == {"-"}  # three classes: the best five say nothing
    assert {row[7] for row in rows} == {"0.833"}
    said = dict(re.findall(r"^(\S+) +(\S.*)$", done.stdout, re.MULTILINE))
    assert said["undecoded"].startswith("1 test videos, which count as wrong: /gone.mp4: ")
    assert {"health/rankme", "health/rankme_25", "health/ridge_in_order"} < set(said)
    # 9 + 6 x 2 views of 32 + 8 tokens of 16 numbers of 2 bytes
    assert re.match(r"tokens for the attentive probe: 2.5e-05 GiB in \S+/evaluations/features\n", done.stderr)
    assert Path(said["results"], "scores.parquet").exists()
    assert said["MLflow"].endswith(f"sqlite:///{made.folder.parents[1] / 'mlflow.db'}")


WRONG = [
    ("--task svm --checkpoint {run} --data {train} {test}", r"--task must be one or more of knn .*, got 'svm'"),
    ("--task knn --checkpoint {train} --data {train} {test}", r"{train} is neither a checkpoint .* nor the folder"),
    ("--task knn --checkpoint {other} --data {train} {test}", r"\S+autoencoder.safetensors does not fit this model: "),
    ("--task knn --checkpoint {run} --data {train} none.parquet", r"no such manifest file: none.parquet; make one"),
    ("--task knn --checkpoint {run} --data {list} {test}", r"{list} is not a Parquet file .*; make one with: python"),
    ("--task knn --checkpoint {run} --data {bare} {test}", r"9 of 9 videos of {bare} have no label: .*; index a list"),
    ("--task knn --checkpoint {run} --data {train} {train}", r"9 of 9 test videos of {train} are in {train} too: "),
    ("--task knn --checkpoint {run} --data {train} {new}", r"class 3 of {new} is absent in {train}, so no probe can"),
    ("--task knn --checkpoint {run} --data {train} {test} knn.neighbors=10", r"knn.neighbors must be at most the 9"),
    ("--task knn --checkpoint {run} --data {train} {test} crop=1", r"there is no knob 'crop'; did you mean crops"),
    ("--task knn --checkpoint {run} --data {train} {test} crops=2", r"crops: input should be 1 or 3, got '2'"),
    (
        "--task knn --checkpoint {long} --data {train} {test}",
        r"a clip of data.num_frames=4 at data.frame_stride=4 is longer .* short_videos=loop",
    ),
    (
        "--task attentive --checkpoint {run} --data {train} {test} features_gib=1e-9",
        r"the tokens .* features_gib=1e-09",
    ),
    ("--task knn --checkpoint {run} --data {train} {test} tracking_uri=sqlite:///a.db", r"tracking.uri must be absol"),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_what_is_wrong_is_one_message(command: Command, made: Any, tmp_path: Path, line: str, message: str) -> None:
    train = Manifest.read(made.train)
    records = [train.record(row) for row in range(9)]
    places = {
        "run": made.folder,
        "train": made.train,
        "test": made.test,
        "list": tmp_path / "list.csv",
        "bare": tmp_path / "bare.parquet",
        "new": tmp_path / "new.parquet",
        "other": tmp_path / "other",
        "long": tmp_path / "long",
    }
    places["list"].write_text("a.mp4 0\n")
    Manifest.of([replace(record, label=None) for record in records]).write(places["bare"])
    test = Manifest.read(made.test)
    Manifest.of([replace(test.record(row), label=3 if row == 5 else row % 3) for row in range(6)]).write(places["new"])
    for name, knob in (("other", ("model.encoder.depth", 2)), ("long", ("data.frame_stride", 4))):
        shutil.copytree(made.folder, places[name])
        run = read_run(places[name] / "run.yaml")
        (places[name] / "run.yaml").write_text(to_yaml(change(run, [knob])))
    neighbors = [] if "knn.neighbors" in line else ["knn.neighbors=3"]
    done = command("evaluate", *line.format(**places).split(), "cluster.num_workers=0", *neighbors)
    assert done.status == 1
    told = {name: re.escape(str(place)) for name, place in places.items()}
    assert re.match("error: " + message.format(**told), done.err.replace("\n", " ")), done.err
    assert done.out == ""


def test_help_lists_every_setting(command: Command) -> None:
    done = command("evaluate", "--help")
    assert not done.status
    for name in ("segments", "token_ratios", "knn.neighbors", "ridge.penalties", "attentive.epochs", "features_gib"):
        assert re.search(rf"^{re.escape(name)} ", done.out, re.MULTILINE)
