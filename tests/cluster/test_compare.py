"""A comparison of small runs on Ray, from the command line: its record, what it finds again, and what it says."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines import compare as command
from tats_ray.cluster.compare import Compared, compare
from tats_ray.comparison.collect import Data, prepared
from tats_ray.comparison.plan import Arm, Comparison
from tats_ray.config.run import TrainRun
from tats_ray.data.manifest import Manifest
from tats_ray.run_folder import read_status
from tats_ray.training.state import checkpoints

pytestmark = pytest.mark.ray

KIND = "masking.visible.kind"
TATS = {
    "embed_dim": 8,
    "switch.critic_by": 0.0,
    "switch.policy_by": 0.0,
    "ppo.rollout_steps": 2,
    "ppo.update_epochs": 1,
}
NEVER = {**TATS, "switch.policy_by": 1.0, "switch.explained_variance": 0.99}


def arm(name: str, kind: str, knobs: dict | None = None) -> Arm:
    return Arm(name, {KIND: kind, **{f"masking.visible.{path}": value for path, value in (knobs or {}).items()}})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_manifest: Callable[[Path], Path]) -> Data:
    """Ten videos, every second of class 1; the first six are for training."""
    folder = tmp_path_factory.mktemp("data")
    whole = Manifest.read(write_manifest(folder / "videos"))
    records = [replace(whole.record(row), label=row % 2) for row in range(len(whole))]
    for name, part in (("train", records[:6]), ("test", records[6:])):
        Manifest.of(part).write(folder / f"{name}.parquet")
    return Data(str(folder / "train.parquet"), str(folder / "test.parquet"))


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory, data: Data, small_run: Callable[..., TrainRun]) -> Comparison:
    knobs = {"data.held_out": 1, "training.picture_every": None, "optim.warmup_share": 0.0}
    run = small_run("duel", manifest=Path(data.train), results=tmp_path_factory.mktemp("results"), knobs=knobs)
    return Comparison(
        run=run,
        arms=(arm("random", "random"), arm("tats", "tats", TATS), arm("never", "tats", NEVER)),
        ratios=(0.75,),
        seeds=(0,),  # several are paired in tests/comparison
        warm_steps=2,
        steps=8,
        cooldown_steps=1,
        warm_ratio=0.75,
        tasks=("ridge", "knn"),
        probes={"segments": 1, "crops": 1, "knn.neighbors": 3},
    )


@pytest.fixture(scope="module")
def compared(wanted: Comparison, data: Data, local_ray: None) -> Compared:
    return compare(*prepared(wanted, data))


def test_every_run_ends_and_is_judged(compared: Compared) -> None:
    assert not compared.missing
    with compared.report.table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2  # arms, budgets
    for row in rows:
        assert 0 <= float(row["ridge/top1"]) <= 1
        assert 0 <= float(row["knn_25/top1"]) <= 1
        assert float(row["random_mask_error_75"]) > 0


def test_cuts_go_on_from_the_checkpoint_that_was_kept_for_them(compared: Compared) -> None:
    cut = compared.plan.runs["duel-tats-r0.75-s0-cut"].run
    assert compared.plan.comparison.run.results is not None
    root = Path(compared.plan.comparison.run.results)
    summary = json.loads((root / cut.name / "0001" / "summary.json").read_text())
    assert summary["step"] == cut.training.steps
    assert cut.training.steps is not None
    assert summary["clips"] == cut.training.steps * 4  # its own and those before the fork
    full = root / cut.name.removesuffix("-cut") / "0001"
    assert [folder.name for folder in checkpoints(full / "checkpoints")][-1] == "step_00000008"


def test_flops_of_cuts_and_references_are_equal_and_those_of_clips_are_not(compared: Compared) -> None:
    with compared.report.table.open() as file:
        flops = {(row["sampler"], row["budget"]): float(row["flops"]) for row in csv.DictReader(file)}
    # Of 8 steps one more or less is an eighth; the cut is at most as dear as planned, since its critic came first.
    assert flops["tats", "flops"] <= flops["random", "clips"] < flops["tats", "clips"]


def test_a_sampler_that_was_never_on_is_not_ranked(compared: Compared) -> None:
    page = compared.report.markdown.read_text()
    assert "its sampler was never on" in page
    assert not [sentence for sentence in compared.report.sentences if sentence.startswith("never against")]
    assert [sentence for sentence in compared.report.sentences if sentence.startswith("tats against random")]


def test_runs_lie_below_the_comparison_and_evaluations_below_the_runs(compared: Compared) -> None:
    client = MlflowClient(compared.handle.uri)
    runs = client.search_runs([compared.handle.experiment_id], max_results=200)
    parents = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs}
    below = [run_id for run_id, parent in parents.items() if parent == compared.handle.run_id]
    assert len(below) == len(compared.plan.runs)
    judged = {entry.run for entry in compared.plan.entries}
    assert len([run_id for run_id, parent in parents.items() if parent in below]) == len(judged)
    assert {run.info.status for run in runs} == {"FINISHED"}
    files = {file.path for file in client.list_artifacts(compared.handle.run_id, "report")}
    assert {"report/report.html", "report/report.md", "report/results.csv"} <= files


def test_what_is_done_is_found_and_what_is_lost_is_done_again(
    compared: Compared, wanted: Comparison, data: Data
) -> None:
    root = Path(str(wanted.run.results))
    lost = root / "duel-tats-r0.75-s0-cut" / "0001"
    status = read_status(lost)
    (lost / "status.json").write_text(json.dumps({**status, "status": "KILLED"}))
    before = {path: path.stat().st_mtime_ns for path in root.glob("duel-*/*/summary.json")}
    again = compare(*prepared(wanted, data))
    assert not again.missing
    assert again.report.html.parent.name == "0002"  # a new report of the same runs
    after = {path: path.stat().st_mtime_ns for path in root.glob("duel-*/*/summary.json")}
    assert before.keys() == after.keys()
    assert [path.parent.parent.name for path in before if before[path] != after[path]] == [lost.parent.name]
    with compared.report.table.open() as first, again.report.table.open() as second:
        assert list(csv.DictReader(first)) == list(csv.DictReader(second))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samplers", "random", "tat"], "no sampler 'tat'; did you mean tats?"),
        (["--recipe", "huge"], "no comparison 'huge'"),
        (["--task", "ridge", "boosting"], "--task must be one or more of"),
        (["--ratios", "0.9", "1.5"], "masking.mask_ratio"),
        (["probes.knn.neighbours=3"], "did you mean knn.neighbors"),
        (["--steps", "100"], "cool-down must have at least 1 step and fewer than the run, got 120 of 100"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(
    arguments: list[str], message: str, data: Data, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    common = [f"data.manifest={data.train}", f"results={tmp_path}", "data.frame_stride=1", "data.num_frames=4"]
    assert command.main([*common, "--data", data.train, data.test, *arguments]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.startswith("error: ")
    assert len(told.strip().splitlines()) == 1


def test_the_cost_is_told_before_anything_starts(data: Data, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    short = [
        "--samplers",
        "random",
        "tats",
        "--ratios",
        "0.75",
        "--seeds",
        "0",
        "--critic-steps",
        "2",
        "--steps",
        "20",
        "--cooldown-steps",
        "2",
    ]
    run = [f"data.manifest={data.train}", f"results={tmp_path}", "data.crop_size=16", "data.num_frames=4"]
    small = ["data.frame_stride=1", "model.patch_size=4", "data.held_out=1", "training.micro_batch=2"]
    assert command.main([*run, *small, "--data", data.train, data.test, "--dry-run", *short]) == 0
    told = capsys.readouterr().out
    assert "4 runs" in told  # a warm-up, random, tats and its cut
    assert "PFLOPs of training" in told
    assert not list(tmp_path.glob("compare-tiny*"))
