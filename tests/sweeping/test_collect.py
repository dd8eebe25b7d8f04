"""What a trial left, read back from its folder and its record."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tats_ray.sweeping import collect
from tats_ray.sweeping.acting import inactive_reason
from tats_ray.sweeping.collect import with_measurements
from tats_ray.sweeping.trials import Point, Trial, TrialStatus
from tats_ray.tracking.base import RunHandle
from tats_ray.worker import SUMMARY

PARENT = RunHandle("sqlite:///nowhere.db", "parent", "1")
TEMPERATURE = {"masking.visible.ppo.temperature": 0.5}
RECORD: Mapping[str, Sequence[tuple[int, float]]] = {
    "loss": [(20, 0.9), (40, 0.8), (60, 0.7), (80, 0.6)],  # cut off before the cost of the last was recorded
    "throughput/flops": [(20, 1e9), (40, 2e9), (60, 4e9)],
    "ppo/clipfrac": [(50, 0.02), (60, 0.04)],
    "sampler/weight_cap_share": [(50, 0.0), (60, 0.01)],
    "sampler/policy_on_step": [(40, 40.0)],
    "sampler/nats_from_uniform": [(50, 0.1), (60, 0.2)],
}


@pytest.fixture(autouse=True)
def record(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_metric(handle: RunHandle, name: str) -> Sequence[tuple[int, float]]:
        assert handle.run_id == "own"
        return RECORD.get(name, [])

    monkeypatch.setattr(collect, "read_metric", read_metric)


def read_back(folder: Path, status: TrialStatus) -> Trial:
    trial = Trial("a", TEMPERATURE, 0, status, folder=str(folder), run_id="own")
    return with_measurements(trial, metric="loss", shown=["sampler/nats_from_uniform", "no/such"], parent=PARENT)


def test_a_finished_trial_has_its_summary_and_its_curve(tmp_path: Path) -> None:
    summary = {"step": 60.0, "loss": 0.7, "sampler/policy_on_step": 30.0}
    (tmp_path / SUMMARY).write_text(json.dumps(summary))
    trial = read_back(tmp_path, "finished")
    recorded = {"ppo/clipfrac": 0.03, "sampler/weight_cap_share": 0.005, "sampler/nats_from_uniform": 0.2}
    assert trial.metrics == pytest.approx({**summary, **recorded})
    assert trial.curve == [Point(20, 1e9, 0.9), Point(40, 2e9, 0.8), Point(60, 4e9, 0.7)]


def test_a_stopped_trial_whose_sampler_was_on_is_not_inactive(tmp_path: Path) -> None:
    """It was stopped before it had a summary, which says when its sampler was switched on."""
    trial = read_back(tmp_path, "stopped")
    assert trial.metrics["sampler/policy_on_step"] == 40.0
    assert inactive_reason(trial, TEMPERATURE) is None


def test_a_trial_that_never_ran_stays_as_it_is() -> None:
    refused = Trial("a", TEMPERATURE, 0, "refused", "its ratio is always 1")
    assert with_measurements(refused, metric="loss", parent=PARENT) is refused
