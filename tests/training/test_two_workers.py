"""Two processes that talk over gloo against one that has all the clips."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tats_ray
from tats_ray.training.context import LocalContext

SCRIPT = Path(__file__).with_name("gloo_worker.py")
SCENARIOS = ["all", "one share lost", "some lost", "not finite", "early stop", "dropout"]


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    script = runpy.run_path(str(SCRIPT))
    return {
        scenario.name: script["play"](scenario, LocalContext(torch.device("cpu"))) for scenario in script["SCENARIOS"]
    }


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("gloo")
    root = str(Path(tats_ray.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), "2", str(folder)], env=environment, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    try:
        for worker in workers:
            _, errors = worker.communicate(timeout=120)
            assert worker.returncode == 0, errors.decode()
    finally:
        for worker in workers:
            worker.kill()
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_workers_learn_what_one_learns(scenario: str, alone: dict, together: list) -> None:
    wanted = alone[scenario]["weights"]
    assert any(name.startswith("adamae." if scenario == "dropout" else "tats.") for name in wanted)
    for name, value in together[0][scenario]["weights"].items():
        # The same sum over clips in another order: float32 rounding of weights below 2.
        assert torch.allclose(value, wanted[name], atol=1e-6, rtol=0), name


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_workers_hold_the_same_weights(scenario: str, together: list) -> None:
    first, second = (rank[scenario]["weights"] for rank in together)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_workers_decide_alike(scenario: str, alone: dict, together: list) -> None:
    first, second = (rank[scenario] for rank in together)
    assert first["decisions"] == second["decisions"]
    assert first["means"] == second["means"]
    wanted = alone[scenario]
    for mine, single in zip(first["decisions"], wanted["decisions"], strict=True):
        assert mine[:3] == single[:3]
    assert first["means"] == pytest.approx(wanted["means"], rel=1e-4, abs=1e-5)


def test_the_scenarios_are_what_they_say(alone: dict, together: list) -> None:
    for played in (alone, *together):
        assert [step[2] for step in played["not finite"]["decisions"]] == [0, 1, 1, 1, 1, 1]
        assert [step[2] for step in played["all"]["decisions"]] == [0] * 6
        assert played["early stop"]["means"]["ppo/early_stop_share"] > 0
        assert played["all"]["means"]["ppo/early_stop_share"] == 0
        assert played["all"]["decisions"][-1][0] == "policy"
        assert played["all"]["decisions"][-1][3]["temperature"] != 1.0
