"""Runs and sweeps as on a cluster: submitted with a token, recorded on a server, stopped, resumed, looked up."""

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

ROOT = Path(__file__).parents[2]
LOSS = "reconstruction/loss"
pytestmark = pytest.mark.services


@pytest.fixture(scope="session")
def client(services: Any) -> MlflowClient:
    return MlflowClient(services.mlflow)


@pytest.fixture(scope="session")
def bucket(services: Any) -> Any:
    """The bucket of MLflow's artifacts, asked without MLflow."""
    import boto3  # of the extra that `make test-services` installs; other tests are collected without it
    from botocore.config import Config

    keys = services.environment("store")
    resource = boto3.resource(
        "s3",
        endpoint_url=f"http://127.0.0.1:{services.ports['s3']}",
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    return resource.Bucket("mlflow")


def runs(client: MlflowClient, where: str = "") -> list[Run]:
    experiments = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(experiments, where))


def named(client: MlflowClient, name: str) -> list[Run]:
    return [run for run in runs(client) if run.info.run_name == name]


def artifacts(client: MlflowClient, run: Run, folder: str | None = None) -> Iterator[Any]:
    for one in client.list_artifacts(run.info.run_id, folder):
        if one.is_dir:
            yield from artifacts(client, run, one.path)
        else:
            yield one


def steps(client: MlflowClient, run: Run) -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, LOSS)]


def submit(services: Any, *words: str, job: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
    waiting = [] if wait else ["--no-wait"]
    done = services.ray(
        "job", "submit", "--working-dir", ".", "--submission-id", job, *waiting, "--", "python", *words, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done


def status_of(services: Any, job: str) -> str:
    return services.ray("job", "status", job).stdout


def newest_step(services: Any, name: str) -> int:
    checkpoints = Path(services.folder / "shared" / "results" / name).glob("*/checkpoints/step_*")
    return max((int(path.name.removeprefix("step_")) for path in checkpoints), default=0)


def test_mlflow_answers_its_own_hosts_only(services: Any) -> None:
    url = services.mlflow + "/api/2.0/mlflow/experiments/search?max_results=1"
    assert urllib.request.urlopen(url, timeout=30).status == 200
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(url, headers={"Host": "elsewhere.example.com"}), timeout=30)


def test_the_store_wants_its_key(services: Any) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"http://127.0.0.1:{services.ports['s3']}/mlflow", timeout=30)


def test_a_wrong_token_and_none_are_told_apart_and_refused(services: Any) -> None:
    wrong = services.ray("job", "list", token="0" * 48, check=False)
    assert wrong.returncode != 0
    assert "the authentication token is invalid or incorrect" in wrong.stderr + wrong.stdout
    none = services.ray("job", "list", token=None, check=False)
    assert none.returncode != 0
    assert "couldn't find an authentication token" in none.stderr + none.stdout
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(services.job_server + "/api/jobs/", timeout=30)


def test_a_submitted_run_is_on_the_server_its_pictures_in_the_store(
    services: Any, settings: list[str], client: MlflowClient, bucket: Any
) -> None:
    words = ["name=first", "training.steps=40", "training.picture_every=20", "training.checkpoint_every=20"]
    done = submit(services, "pipelines/pretrain.py", *settings, *words, "cluster.num_workers=2", job="first")
    assert services.passwords["PLANTED_PASSWORD"] not in done.stdout + done.stderr
    (run,) = [one for one in named(client, "first") if "mlflow.parentRunId" not in one.data.tags] or runs(client)
    assert run.info.status == "FINISHED"
    found = steps(client, run)
    assert found == sorted(set(found))
    assert found[-1] == 40
    assert newest_step(services, "first") == 40
    kept = {one.path: one.file_size for one in artifacts(client, run)}
    pictures = [path for path in kept if path.endswith((".png", ".webp", ".jpg"))]
    assert pictures
    prefix = run.info.artifact_uri.removeprefix("mlflow-artifacts:/")
    stored = {one.key.removeprefix(f"{prefix}/"): one.size for one in bucket.objects.filter(Prefix=prefix)}
    assert stored == kept
    local = Path(client.download_artifacts(run.info.run_id, pictures[0], str(services.folder)))
    assert local.read_bytes() == bucket.Object(f"{prefix}/{pictures[0]}").get()["Body"].read()


def test_a_stopped_job_leaves_a_checkpoint_and_goes_on_until_its_pod_is_ended(
    services: Any, settings: list[str], client: MlflowClient, wait: Any
) -> None:
    words = ["name=stopped", "training.steps=100000", "training.checkpoint_every=50000", "training.picture_every=null"]
    command = ["pipelines/pretrain.py", *settings, *words, "cluster.num_workers=1", "tracking.log_every=1"]

    def running() -> Run | None:
        found = [run for run in runs(client) if run.data.params.get("name") == "stopped"]
        return found[0] if found else None

    submit(services, *command, job="stopped", wait=False)
    run = wait(lambda: (one := running()) and steps(client, one) and one, what="the run has made a step")
    services.ray("job", "stop", "stopped")
    assert "STOPPED" in status_of(services, "stopped").upper()
    wait(lambda: running().info.status == "KILLED", what="the run ends as KILLED")
    first = newest_step(services, "stopped")
    assert first > 0  # of the signal: none was due before step 50,000

    submit(services, *command, job="resumed", wait=False)
    wait(lambda: steps(client, run)[-1] > first + 5, what="the same run goes on")
    ended = subprocess.run(
        [sys.executable, "deploy/pre_stop.py", "head", "--address", services.job_server, "--seconds", "300"],
        env={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": services.passwords["RAY_AUTH_TOKEN"], "PATH": "/usr/bin:/bin"},
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == 0
    assert "STOPPED" in status_of(services, "resumed").upper()
    wait(lambda: running().info.status == "KILLED", what="the run ends as KILLED again")
    assert newest_step(services, "stopped") > first
    found = steps(client, run)
    assert found == sorted(set(found))


def test_results_in_a_bucket_are_those_of_a_folder(services: Any, settings: list[str], bucket: Any) -> None:
    words = [
        "training.steps=20",
        "training.checkpoint_every=10",
        "training.picture_every=null",
        "cluster.num_workers=2",
    ]
    submit(services, "pipelines/pretrain.py", *settings, *words, "name=near", job="near")
    submit(services, "pipelines/pretrain.py", *settings, *words, "name=far", "results=s3://mlflow/runs", job="far")
    index = "far/0001/checkpoints/step_00000020/checkpoint.json"
    far = json.loads(bucket.Object(f"runs/{index}").get()["Body"].read())
    near = json.loads((services.folder / "shared" / "results" / index.replace("far", "near", 1)).read_text())
    for name in ("autoencoder.safetensors", "tats.safetensors"):
        assert far["files"][name] == near["files"][name]


def test_an_evaluation_in_a_bucket_is_that_of_a_folder(
    services: Any, settings: list[str], labelled: list[str], client: MlflowClient, bucket: Any
) -> None:
    """Of the two runs of the test before, whose weights are the same; actors on both nodes bring theirs themselves."""
    shared = services.folder / "shared" / "results"
    shutil.rmtree(services.folder / "copies")
    words = ["pipelines/evaluate.py", "--task", "knn", "ridge", "health", "--data", *labelled]
    words += ["knn.neighbors=5", "cluster.num_workers=2", "cluster.use_gpu=false"]
    submit(services, *words, "--checkpoint", str(shared / "near"), job="evaluate-near")
    submit(services, *words, "--checkpoint", "s3://mlflow/runs/far", job="evaluate-far")
    near = json.loads((shared / "near/0001/evaluations/0001/evaluation.json").read_text())
    far = json.loads(bucket.Object("runs/far/0001/evaluations/0001/evaluation.json").get()["Body"].read())
    assert far["metrics"] == near["metrics"]
    assert 0 <= far["metrics"]["ridge/top1"] <= 1
    assert far["checkpoint"]["folder"] == "s3://mlflow/runs/far/0001/checkpoints/step_00000020"
    recorded = client.get_run(far["mlflow_run_id"])
    assert recorded.data.metrics["ridge/top1"] == far["metrics"]["ridge/top1"]
    features = [one.key for one in bucket.objects.filter(Prefix="runs/far/0001/") if "features" in one.key]
    assert features


def test_a_run_in_a_bucket_is_stopped_and_goes_on_without_its_copy(
    services: Any, settings: list[str], client: MlflowClient, bucket: Any, wait: Any
) -> None:
    words = ["name=bucket", "results=s3://mlflow/runs", "training.steps=100000", "training.checkpoint_every=50000"]
    command = ["pipelines/pretrain.py", *settings, *words, "training.picture_every=null", "tracking.log_every=1"]

    def running() -> Run | None:
        found = [run for run in runs(client) if run.data.params.get("name") == "bucket"]
        return found[0] if found else None

    def newest() -> int:
        objects = bucket.objects.filter(Prefix="runs/bucket/0001/checkpoints/")
        whole = [one.key.split("/")[-2] for one in objects if one.key.endswith("/checkpoint.json")]
        return max((int(name.removeprefix("step_")) for name in whole), default=0)

    submit(services, *command, job="bucket", wait=False)
    run = wait(lambda: (one := running()) and steps(client, one) and one, what="the run has made a step")
    services.ray("job", "stop", "bucket")
    wait(lambda: running().info.status == "KILLED" and newest(), what="the run ends as KILLED, with a checkpoint")
    first = newest()
    shutil.rmtree(services.folder / "copies")
    submit(services, *command, job="bucket-again", wait=False)
    wait(lambda: steps(client, run)[-1] > first + 5, what="the same run goes on")
    services.ray("job", "stop", "bucket-again")
    wait(lambda: running().info.status == "KILLED" and newest() > first, what="it ends again")
    found = steps(client, run)
    assert found == sorted(set(found))


def test_a_submitted_sweep_is_one_parent_with_a_child_a_trial(
    services: Any, settings: list[str], client: MlflowClient
) -> None:
    script = ["tune_spaces/sweep_mask_ratio.py", "--trials", "3"]
    done = submit(services, *script, *settings, "cluster.num_workers=1", job="sweep")
    assert "best first by validation/random_mask_error" in done.stdout
    found = runs(client)
    children: dict[str, list[Run]] = {}
    for run in found:
        if parent := run.data.tags.get("mlflow.parentRunId"):
            children.setdefault(parent, []).append(run)
    (parent,) = [run for run in found if len(children.get(run.info.run_id, ())) >= 3]
    assert parent.info.status == "FINISHED"
    for trial in children[parent.info.run_id]:
        assert trial.info.status == "FINISHED"
        points = [p.step for p in client.get_metric_history(trial.info.run_id, "validation/random_mask_error")]
        assert points
        assert points == sorted(set(points))


def test_a_sweep_in_a_bucket_leaves_its_page_and_a_best_that_trains(
    services: Any, settings: list[str], client: MlflowClient, bucket: Any
) -> None:
    """From a checkpoint in the bucket; a machine that never saw the sweep trains its best."""
    words = ["results=s3://mlflow/runs", "init=s3://mlflow/runs/far/0001", "cluster.num_workers=1", "training.steps=40"]
    script = ["tune_spaces/sweep_mask_ratio.py", "--trials", "2"]
    done = submit(services, *script, *settings, *words, job="far-sweep")
    assert "s3://mlflow/runs/sweep_mask_ratio/0001" in done.stdout
    prefix = "runs/sweep_mask_ratio/0001/"
    there = {one.key.removeprefix(prefix) for one in bucket.objects.filter(Prefix=prefix)}
    assert {"plan.json", "sweep.html", "trials.csv", "summary.csv", "best.yaml", "status.json"} <= there
    table = bucket.Object(f"{prefix}trials.csv").get()["Body"].read().decode().splitlines()
    assert [row for row in table if "finished" in row] == table[1:]
    assert len(table) == 3
    found = [run for run in runs(client, "tags.`tats.kind` = 'run'") if prefix.split("/")[1] in run.info.run_name]
    folders = [run.data.tags["tats.folder"] for run in found if run.data.tags["tats.folder"].startswith("s3://")]
    assert len(folders) == 2

    shutil.rmtree(services.folder / "copies")
    best = ["--config", f"s3://mlflow/{prefix}best.yaml", "name=best", "training.steps=5"]
    submit(services, "pipelines/pretrain.py", *best, job="far-best")
    (run,) = [run for run in runs(client) if run.data.params.get("name") == "best"]
    assert run.info.status == "FINISHED"


def test_no_secret_is_in_any_file_log_table_or_artifact(services: Any) -> None:
    dump = services.folder / "dump.sql"
    subprocess.run(
        [
            "pg_dump",
            "-h",
            "127.0.0.1",
            "-p",
            str(services.ports["postgres"]),
            "-U",
            "mlflow",
            "-f",
            str(dump),
            "mlflow",
        ],
        env={"PATH": "/usr/bin:/bin", "PGPASSWORD": services.passwords["POSTGRES_PASSWORD"]},
        check=True,
    )
    assert b"reconstruction/loss" in dump.read_bytes()  # so that something was searched
    needles = {name: value.encode() for name, value in services.passwords.items()}
    searched = 0
    for root in (services.folder, services.scratch):
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                searched += 1
                content = path.read_bytes()
                held = [name for name, value in needles.items() if value in content]
                assert not held, f"{path} holds {held}"
    assert searched > 50
