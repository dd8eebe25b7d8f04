"""The search expressions of ``docs/mlflow.md``, run against a real store; and the tags that they rest on."""

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import pytest
from mlflow import MlflowClient

from tats_ray.config.labels import describe_evaluation, describe_run, describe_sweep, named_videos, sampler_tags
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.tracking.base import RunHandle, TrackingConfig
from tats_ray.tracking.mlflow import MlflowTracker, end_run, open_run

PAGE = Path(__file__).parents[2] / "docs" / "mlflow.md"
NOTE = "mlflow.note.content"


@pytest.fixture(scope="module")
def base(small_run: Callable[..., TrainRun], tmp_path_factory: pytest.TempPathFactory) -> TrainRun:
    return small_run("tiny", manifest=Path("/videos/train.parquet"), results=tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def record(base: TrainRun) -> Callable[..., RunHandle]:
    """Record something that ended well, with the points given, as driver, sweep, comparison and evaluation do."""
    assert base.results is not None
    root = Path(base.results)

    def make(
        name: str, *, tags: dict[str, str], run: TrainRun = base, points: dict[str, float] | None = None, **rest: str
    ) -> RunHandle:
        handle = open_run(
            TrackingConfig(run_name=name),
            results_root=root,
            folder=Path(mkdtemp(dir=root)),
            params=run.model_dump(mode="json"),
            tags=tags,
            **rest,
        )
        tracker = MlflowTracker(handle)
        tracker.log_metrics(points or {}, step=8)
        tracker.close()
        end_run(handle, status="FAILED" if "failed" in name else "FINISHED")
        return handle

    return make


@pytest.fixture(scope="module")
def client(base: TrainRun, record: Callable[..., RunHandle]) -> MlflowClient:
    """A store with a sweep of two trials, a comparison of one run, an evaluation of that, and a run that failed."""
    adamae = change(base, [("masking.visible.kind", "adamae"), ("masking.mask_ratio", 0.75)])
    good, bad = {"validation/random_mask_error": 0.6}, {"validation/random_mask_error": 0.9}
    run = {"tats.kind": "run"}
    sweep = record("sweep_mask_ratio-0001", tags={"tats.kind": "sweep", "tats.sweep": "sweep_mask_ratio-0001"})
    below = {"parent_run_id": sweep.run_id}
    record("trial-tats", tags={**run, **sampler_tags(base)}, points=good, **below)
    record("trial-adamae", tags={**run, **sampler_tags(adamae)}, run=adamae, points=bad, **below)
    whole = record("tiny-0002", tags={"tats.kind": "comparison", "tats.comparison": "tiny-0002"})
    part = record("tiny-0002-tats", tags={**run, **sampler_tags(base)}, points=bad, parent_run_id=whole.run_id)
    evaluation = {"tats.kind": "evaluation", **sampler_tags(base)}
    record("evaluate-tiny", tags=evaluation, points={"knn/top1": 0.7}, parent_run_id=part.run_id)
    record("failed", tags={**run, **sampler_tags(base)})
    return MlflowClient(f"sqlite:///{base.results}/mlflow.db")


FOUND = {
    "tags.tats.kind = 'run'": {"trial-tats", "trial-adamae", "tiny-0002-tats", "failed"},
    "tags.tats.sampler = 'tats' and tags.tats.mask_ratio = '0.9'": {
        "trial-tats",
        "tiny-0002-tats",
        "evaluate-tiny",
        "failed",
    },
    "tags.tats.sweep = 'sweep_mask_ratio-0001' and tags.tats.kind = 'run'": {"trial-tats", "trial-adamae"},
    "tags.tats.comparison LIKE 'tiny-%'": {"tiny-0002", "tiny-0002-tats", "evaluate-tiny"},
    "tags.tats.kind = 'run' and metrics.`validation/random_mask_error` < 0.7": {"trial-tats"},
    "tags.tats.kind = 'evaluation' and metrics.`knn/top1` > 0.5": {"evaluate-tiny"},
    "params.`masking.visible.kind` = 'adamae'": {"trial-adamae"},
    "attributes.status = 'FAILED'": {"failed"},
    "attributes.run_name LIKE 'tiny-%'": {"tiny-0002", "tiny-0002-tats"},
}
"""The page's expressions, and the names of what each finds here."""


def test_the_page_has_these_expressions_and_no_others() -> None:
    (block,) = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert set(block.splitlines()) == set(FOUND)


@pytest.mark.parametrize("expression", FOUND)
def test_an_expression_finds_what_the_page_says(client: MlflowClient, expression: str) -> None:
    experiment = client.get_experiment_by_name("tats_ray")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], expression)
    assert {run.info.run_name for run in found} == FOUND[expression]


def test_a_description_says_what_a_run_is(base: TrainRun) -> None:
    assert describe_run(base, num_videos=1200) == (
        "Sampler tats hides 90 % of 32 tokens; encoder 16 wide, 1 deep, clips of 4 frames of 16 pixels. 8 steps of 4 "
        "clips, from 1,200 videos of train.parquet, seed 0."
    )
    longer = change(
        base,
        [
            ("training.steps", None),
            ("training.epochs", 800),
            ("init", "/runs/warm"),
            ("init_takes", "training"),
            *(("model.encoder." + name, value) for name, value in (("embed_dim", 96), ("depth", 3), ("num_heads", 3))),
        ],
    )
    text = describe_run(longer, num_videos=3)
    assert "encoder tiny (96 wide, 3 deep)" in text
    assert "800 epochs in steps of 4 clips, from 3 videos of train.parquet, seed 0, going on from `/runs/warm`." in text
    assert describe_sweep(base, knobs=["seed"], metric="loss", mode="min").startswith(
        "Sweep over `seed`, min of `loss`; its trials are nested below it. They share: encoder 16 wide, 1 deep, clips"
    )
    train, test = named_videos(70, "s3://b/train.parquet"), named_videos(1, "/test.parquet")
    assert describe_evaluation("tiny/0001", step=1600, tasks=["knn", "linear"], train=train, test=test) == (
        "Probes knn, linear on the frozen encoder of tiny/0001 at step 1,600: fitted on 70 videos of train.parquet, "
        "tested on 1 videos of test.parquet."
    )


def test_what_people_wrote_about_a_run_stays_when_it_goes_on(
    base: TrainRun, client: MlflowClient, record: Callable[..., RunHandle]
) -> None:
    handle = record("noted", tags={}, description="from http://me:hunter2@host")
    assert client.get_run(handle.run_id).data.tags[NOTE] == "from http://host"
    client.set_tag(handle.run_id, NOTE, "the good one")
    record("noted", tags={}, description="again", run_id=handle.run_id)
    assert client.get_run(handle.run_id).data.tags[NOTE] == "the good one"


def test_a_parent_in_another_store_has_no_family_to_give(
    client: MlflowClient, record: Callable[..., RunHandle]
) -> None:
    handle = record("alone", tags={}, parent_run_id="0" * 32)
    tags = client.get_run(handle.run_id).data.tags
    assert tags["mlflow.parentRunId"] == "0" * 32
    assert "tats.sweep" not in tags
