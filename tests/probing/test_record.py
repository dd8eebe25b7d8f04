"""What an evaluation leaves on the disk and in MLflow."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from tats_ray.config.error import ConfigError
from tats_ray.data.guard import GuardConfig
from tats_ray.data.manifest import Manifest, ManifestError
from tats_ray.probing.config import EvaluationConfig
from tats_ray.probing.decoding import Views
from tats_ray.probing.evaluate import evaluate
from tats_ray.probing.features import extract_here
from tats_ray.probing.frozen import FrozenEncoder
from tats_ray.probing.record import class_names, conduct_evaluation, write_evaluation
from tats_ray.probing.work import ViewDecoder

CONFIG = EvaluationConfig(knn={"neighbors": 3}, crops=1)  # type: ignore[arg-type]
TASKS = ("knn", "ridge", "health")


class WithoutTheSecond(ViewDecoder):
    """The second test video gives no views."""

    def __call__(self, record, layout):
        if record.source.name.endswith("test_videos/synthetic_0001.mp4"):
            return Views(None, reason="it is gone")
        return super().__call__(record, layout)


@pytest.fixture(scope="module")
def own(make_probed: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run's folder of this module alone, with names for its classes."""
    made = make_probed(tmp_path_factory.mktemp("recorded"))
    made.test.with_suffix(".classes.txt").write_text("fall\nrise\nturn $x$\n")
    return made


def conduct(made: Any, **changes: Any) -> Any:
    frozen = FrozenEncoder.load(made.folder, device=torch.device("cpu"))
    train, test = Manifest.read(made.train), Manifest.read(made.test)
    extract = partial(extract_here, decoder=WithoutTheSecond(GuardConfig()))
    run = changes.get("run", lambda: evaluate(frozen, train, test, TASKS, CONFIG, extract=extract))
    return conduct_evaluation(frozen, train, test, TASKS, CONFIG, run=run)


@pytest.fixture(scope="module")
def recorded(own: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return conduct(own)


def mlflow_run(recorded: Any) -> tuple[MlflowClient, Run]:
    client = MlflowClient(recorded.handle.uri)
    return client, client.get_run(recorded.handle.run_id)


def test_the_folder_holds_figures_scores_and_pictures(own, recorded):
    assert recorded.folder == own.folder / "evaluations" / "0001"
    assert sorted(path.name for path in recorded.folder.iterdir()) == [
        *(f"confusion_{name}.png" for name in ("knn", "knn_25", "ridge", "ridge_25")),
        "evaluation.json",
        "scores.parquet",
        "spectrum.png",
    ]
    told = json.loads((recorded.folder / "evaluation.json").read_text())
    assert told["metrics"] == recorded.evaluation.metrics()
    assert told["checkpoint"]["step"] == 7
    assert told["checkpoint"]["mlflow_run_id"] == "parent"
    assert EvaluationConfig.model_validate(told["settings"]) == CONFIG
    assert [one["reason"] for one in told["test"]["undecoded"]] == ["it is gone"]
    assert (told["train"]["videos"], told["test"]["videos"], told["num_classes"]) == (9, 6, 3)
    assert told["test"]["hash"] == Manifest.read(own.test).hash


def test_scores_are_a_row_for_each_video_and_probe(own, recorded):
    rows = pq.read_table(recorded.folder / "scores.parquet").to_pylist()
    assert len(rows) == 6 * 4
    test = Manifest.read(own.test)
    results = {(one.task, one.token_ratio): one for one in recorded.evaluation.results}
    for number, row in enumerate(rows):
        result, record = results[row["task"], row["token_ratio"]], test.record(number % 6)
        assert (row["id"], row["path"], row["label"]) == (record.id, record.path, record.label)
        if number % 6 == 1:
            assert (row["predicted"], row["scores"], row["num_views"], row["reason"]) == (None, None, 0, "it is gone")
        else:
            assert row["scores"] == result.scores[number % 6].tolist()
            assert row["predicted"] == max(range(3), key=row["scores"].__getitem__)
            assert (row["num_views"], row["reason"]) == (2, "")
    right = sum(row["predicted"] == row["label"] for row in rows[:6])
    assert right / 6 == recorded.evaluation.metrics()["knn/top1"]


def test_mlflow_has_a_child_of_the_run_that_made_the_checkpoint(own, recorded):
    client, run = mlflow_run(recorded)
    assert recorded.handle.uri == f"sqlite:///{own.folder.parents[1] / 'mlflow.db'}"
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == "parent"
    assert run.data.tags["tats.checkpoint"] == str(own.checkpoint)
    assert run.data.metrics == recorded.evaluation.metrics()
    (point,) = client.get_metric_history(run.info.run_id, "ridge/top1")
    assert point.step == 7
    assert run.data.params["evaluation.knn.neighbors"] == "3"
    names = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "evaluation")}
    assert names == {path.name for path in recorded.folder.iterdir()}


def test_an_evaluation_that_ends_otherwise_says_so_and_takes_no_number(own, recorded):
    def stop(error: BaseException) -> Callable[[], Any]:
        def run() -> Any:
            raise error

        return run

    for error, status in ((ManifestError("no labels"), "FAILED"), (KeyboardInterrupt(), "KILLED")):
        with pytest.raises(type(error)):
            conduct(own, run=stop(error))
        client, done = mlflow_run(recorded)
        (newest,) = client.search_runs([done.info.experiment_id], order_by=["start_time DESC"], max_results=1)
        assert newest.info.status == status
        assert newest.data.tags.get("tats.error") == ("no labels" if status == "FAILED" else None)
    assert sorted(path.name for path in (own.folder / "evaluations").iterdir()) == ["0001", "features"]
    assert conduct(own).folder.name == "0002"


def test_names_of_classes_stand_beside_a_manifest(own, recorded, frozen, train, test, tmp_path):
    names = class_names(Manifest.read(own.train), Manifest.read(own.test))
    assert names == ["fall", "rise", "turn $x$"]
    assert class_names(train, test) is None
    rest = {"folder": tmp_path, "handle": None}
    with pytest.raises(ConfigError, match="the file of class names has 2 lines, and there are 3 classes"):
        write_evaluation(recorded.evaluation, frozen, train, test, CONFIG, names=["a", "b"], **rest)
