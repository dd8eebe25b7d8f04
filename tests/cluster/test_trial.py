"""A trial as Tune drives it, without Tune: its reports, its endings, and what becomes of a clone."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from tats_ray.cluster import trial as trials
from tats_ray.cluster.trial import Sweep, SweepTrial, trial_run
from tats_ray.config.run import TrainRun
from tats_ray.run_folder import read_status
from tats_ray.sweeping.journal import Journal, Planned
from tats_ray.tracking.mlflow import open_run
from tats_ray.training.state import checkpoint_step, checkpoints

METRIC = "validation/random_mask_error"
RATE, SAMPLER_RATE, DECAY = "optim.base_learning_rate", "masking.visible.ppo.learning_rate", "optim.weight_decay"
TEMPERATURE = "masking.visible.ppo.temperature"
Start = Callable[..., SweepTrial]


@pytest.fixture
def sweep(tmp_path: Path, small_run: Callable[..., TrainRun], write_manifest: Callable[[Path], Path]) -> Sweep:
    knobs = {"cluster.num_workers": 1, "optim.max_skipped_steps": 0, "training.keep_checkpoints": 9}
    base = small_run("base", manifest=write_manifest(tmp_path / "videos"), results=tmp_path, knobs=knobs)
    folder = tmp_path / "sweep" / "0001"
    folder.mkdir(parents=True)
    parent = open_run(base.tracking, results_root=tmp_path, folder=folder, params={})
    return Sweep("sweep-0001", folder, base, METRIC, {"0": None}, parent.run_id, decides=True)


@pytest.fixture
def start(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start trials as Tune does, in this process."""
    monkeypatch.setattr(trials, "device", lambda: torch.device("cpu"))

    def started(planned: Planned, *, decides: bool = True) -> SweepTrial:
        class Alone(SweepTrial):
            def setup(self, config: dict[str, Any], sweep_: Sweep | None = None) -> None:
                super().setup(config, replace(sweep, decides=decides))

        return Alone({"trial": vars(planned)})

    return started


@pytest.fixture
def client(tmp_path: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


def folders(sweep: Sweep, planned: Planned) -> list[Path]:
    run = trial_run(sweep, planned)
    return sorted((Path(str(run.results)) / run.name).glob("[0-9]*"))


def settings(checkpoint: Path) -> dict[str, Any]:
    """The optimisers' settings of a checkpoint, by name."""
    saved = torch.load(checkpoint / "training.pt", weights_only=True)["optimizers"]
    return {name: optimizer["param_groups"] for name, optimizer in saved.items()}


def test_it_reports_at_checkpoints_and_at_its_end(sweep: Sweep, start: Start, client: MlflowClient) -> None:
    planned = Planned("000", {RATE: 0.05}, 0)
    trial = start(planned)
    reports = [trial.train() for _ in range(4)]
    assert [(report["step"], report["done"]) for report in reports] == [(2, False), (4, False), (6, False), (8, True)]
    assert all(math.isfinite(report[METRIC]) for report in reports)
    (folder,) = folders(sweep, planned)
    run = client.get_run(read_status(folder)["mlflow_run_id"])
    assert (run.info.status, run.data.tags["mlflow.parentRunId"]) == ("FINISHED", sweep.parent_run_id)
    again = start(planned).train()  # its process was lost before Tune heard of its end
    assert (again["step"], again["done"], again[METRIC]) == (8, True, reports[-1][METRIC])
    assert folders(sweep, planned) == [folder]


def test_where_nobody_decides_it_trains_to_its_end_in_one_step(sweep: Sweep, start: Start) -> None:
    planned = Planned("000", {RATE: 0.05}, 0)
    report = start(planned, decides=False).train()
    assert (report["step"], report["done"]) == (8, True)
    (folder,) = folders(sweep, planned)
    assert [checkpoint_step(found) for found in checkpoints(folder / "checkpoints")] == [2, 4, 6, 8]


def test_stopped_it_is_recorded_and_goes_on_in_another_process(
    sweep: Sweep, start: Start, client: MlflowClient
) -> None:
    planned = Planned("000", {RATE: 0.05}, 0)
    trial = start(planned)
    trial.train()
    trial.stop()
    (folder,) = folders(sweep, planned)
    run_id = read_status(folder)["mlflow_run_id"]
    assert (read_status(folder)["status"], client.get_run(run_id).info.status) == ("KILLED", "KILLED")
    other = start(Planned("001", {RATE: 0.05}, 0))  # the process is used again
    assert other.train()["step"] == 2
    assert other.reset({"trial": vars(planned)})
    assert other.train()["step"] == 4
    other.stop()
    assert [point.step for point in client.get_metric_history(run_id, METRIC)] == [1, 2, 3, 4]
    assert folders(sweep, planned) == [folder]


def test_what_ends_it_by_its_own_fault_is_a_report(sweep: Sweep, start: Start, client: MlflowClient) -> None:
    planned = Planned("000", {RATE: 1e30, "optim.warmup_share": 0.0}, 0)
    report = start(planned).train()
    while not report["done"]:
        report = start(planned).train()
    assert "not finite" in report["failed"]
    assert math.isnan(report[METRIC])
    (folder,) = folders(sweep, planned)
    assert client.get_run(read_status(folder)["mlflow_run_id"]).info.status == "FAILED"


def test_a_clone_takes_over_all_but_the_knobs(sweep: Sweep, start: Start, client: MlflowClient, tmp_path: Path) -> None:
    donor, weak = Planned("000", {RATE: 0.05, SAMPLER_RATE: 1e-3}, 0), Planned("001", {RATE: 1e-6, DECAY: 0.1}, 0)
    good, bad = start(donor), start(weak)
    assert [good.train()["step"] for _ in range(2)] == [2, 4]
    good.save_checkpoint(str(tmp_path / "saved"))
    assert bad.train()["step"] == 2
    bad.stop()

    perturbed = Planned("001", {RATE: 0.06, SAMPLER_RATE: 2e-3, DECAY: 0.3, TEMPERATURE: 0.7}, 0)
    clone = start(perturbed)
    for _ in range(2):  # once more when its process is lost: it is the same clone
        clone.load_checkpoint(str(tmp_path / "saved"))
    reports = [clone.train() for _ in range(2)]
    assert [(report["step"], report["done"]) for report in reports] == [(6, False), (8, True)]
    assert reports[0]["segments"] == 1

    (segment,) = Journal(sweep.folder).segments("001")
    assert (segment.donor, segment.step, segment.knobs) == ("000", 4, perturbed.knobs)
    (donors,) = folders(sweep, donor)
    for file in ("autoencoder.safetensors", "tats.safetensors"):
        wanted = (donors / "checkpoints" / "step_00000004" / file).read_bytes()
        assert (Path(segment.start) / file).read_bytes() == wanted
    first, second = folders(sweep, perturbed)
    assert [checkpoint_step(found) for found in checkpoints(second / "checkpoints")] == [6, 8]
    now = settings(second / "checkpoints" / "step_00000006")
    assert now["sampler"][0]["lr"] == 2e-3
    assert {group["weight_decay"] for group in now["autoencoder"]} == {0.0, 0.3}
    state = torch.load(second / "checkpoints" / "step_00000006" / "training.pt", weights_only=True)["state"]
    assert state["method"]["temperature"] == 0.7

    run_id = read_status(second)["mlflow_run_id"]
    assert read_status(first)["mlflow_run_id"] == run_id
    assert [point.step for point in client.get_metric_history(run_id, METRIC)] == [1, 2, 5, 6, 7, 8]
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "sweep/segment")] == [(4, 2.0)]
    assert "from trial 000 at step 4" in client.get_run(run_id).data.tags["tats.segment.2"]
    good.stop()


def test_a_clone_that_is_lost_goes_on_as_a_clone(sweep: Sweep, start: Start, tmp_path: Path) -> None:
    good = start(Planned("000", {RATE: 0.05}, 0))
    good.train()
    good.save_checkpoint(str(tmp_path / "saved"))
    good.stop()
    perturbed = Planned("001", {RATE: 0.06}, 0)
    clone = start(perturbed)
    clone.load_checkpoint(str(tmp_path / "saved"))
    assert clone.train()["step"] == 4
    clone.stop()
    (folder,) = folders(sweep, perturbed)
    as_planned = Planned("001", {RATE: 1e-6}, 0)  # what a driver knows that was killed as well
    again = start(as_planned)
    assert again.train()["step"] == 6
    again.stop()
    assert folders(sweep, perturbed) == [folder]
