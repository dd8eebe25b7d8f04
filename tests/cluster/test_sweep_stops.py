"""Sweeps that are interrupted, or whose driver is killed: how they end, and how they go on."""

import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ray import tune

from tats_ray.cluster.search_space import SearchSpace
from tats_ray.cluster.tune import sweep
from tats_ray.config.run import TrainRun
from tats_ray.run_folder import read_status
from tats_ray.sweeping.journal import Journal

MADE_IN = str(Path(__file__).with_name("made.py"))
MADE = runpy.run_path(MADE_IN)
children, steps_of = MADE["children"], MADE["steps_of"]
METRIC = "validation/random_mask_error"
START_SECONDS = 400
"""When to give up on a process of its own; 30 are enough for it alone."""
SCRIPT = """
import runpy
import signal
import sys
import time
from ray import tune
from tats_ray.cluster import trial as trials
from tats_ray.cluster import tune as sweeps
from tats_ray.cluster.runtime import start_ray
from tats_ray.cluster.search_space import SearchSpace
from tats_ray.cluster.sweep_command import main
from tats_ray.cluster.trial import SweepTrial

at_checkpoints = runpy.run_path(MADE)["at_checkpoints"]

class Held(SweepTrial):
    def setup(self, config, sweep=None):
        super().setup(config, sweep)
        self.hold("at its start")

    def _execute(self, launch, **rest):
        self.hold("before its first step")
        trials.LocalContext = at_checkpoints(lambda: self.hold("at a checkpoint"))
        super()._execute(launch, **rest)

    def hold(self, where):
        if HELD.get(self._planned.name) == where:
            (self._sweep.folder / f"held-{self._planned.name}").touch()
            time.sleep(SECONDS)

sweeps.SweepTrial = Held
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
start_ray(num_cpus=4)  # two trials at once on any machine
domains = {"training.steps": tune.choice(STEPS)}
space = SearchSpace(NAME, "tiny", "validation/random_mask_error", "min", domains)
sys.exit(main(space, description="A sweep that is interrupted."))
"""
"""A sweep whose trials say where they are, and wait there to be interrupted."""


def interrupted(
    name: str, steps: list[int], base: TrainRun, number: signal.Signals, *, held: dict[str, str], also: str = "*"
) -> tuple[int, str]:
    """Run a sweep in a process of its own, and send it a signal when trials are held, and a file is there."""
    assert base.results is not None
    results = Path(base.results)
    (results / f"{name}.json").write_text(base.model_dump_json())  # JSON is YAML
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    script = SCRIPT
    for word, value in {"MADE": MADE_IN, "NAME": name, "STEPS": steps, "HELD": held, "SECONDS": START_SECONDS}.items():
        script = script.replace(word, repr(value))
    awaited = [also, *(f"{name}/0001/held-{trial}" for trial in held)]
    with subprocess.Popen(
        [sys.executable, "-c", script, "--config", results / f"{name}.json"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        began = time.monotonic()
        while not all(list(results.glob(pattern)) for pattern in awaited):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() - began < START_SECONDS
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=START_SECONDS)
    return process.returncode, said


@pytest.mark.ray
@pytest.mark.parametrize(
    ("number", "status", "held", "also"),
    [
        (signal.SIGINT, 130, {"001": "at a checkpoint"}, "{name}-0001-000/0001/checkpoints/step_*"),  # both have begun
        pytest.param(  # none has
            signal.SIGTERM, 143, {"000": "at its start", "001": "at its start"}, "*", marks=pytest.mark.slow
        ),
    ],
)
def test_an_interrupted_sweep_ends_as_killed_with_all_its_trials(
    run_of: Callable[..., TrainRun],
    client: MlflowClient,
    number: signal.Signals,
    status: int,
    held: dict[str, str],
    also: str,
) -> None:
    name = f"by-{number.name.lower()}"
    run = run_of(training__picture_every=None)
    code, said = interrupted(name, [100_000, 100_001], run, number, held=held, also=also.format(name=name))
    assert code == status, said
    assert "Traceback" not in said
    (parent,) = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        f"tags.`tats.sweep` = '{name}-0001' and tags.`tats.kind` = 'sweep'",
    )
    assert parent.info.status == "KILLED"
    trials = children(client, parent.info.run_id)
    assert [run.info.status for run in trials] == (["KILLED"] * 2 if number == signal.SIGINT else [])
    assert [read_status(Path(run.data.tags["tats.folder"]))["status"] for run in trials] == ["KILLED"] * len(trials)


@pytest.mark.ray
def test_a_sweep_whose_driver_was_killed_goes_on(
    local_ray: None, run_of: Callable[..., TrainRun], client: MlflowClient
) -> None:
    """A finished trial does not run again, one with a checkpoint repeats no point, one without begins anew."""
    run = run_of(training__validate_every=4, training__checkpoint_every=4, training__picture_every=None)
    steps = [8, 12, 9]
    space = SearchSpace("resumed", "tiny", METRIC, "min", domains={"training.steps": tune.choice(steps)})
    held = {"001": "at a checkpoint", "002": "before its first step"}
    code, _ = interrupted("resumed", steps, run, signal.SIGKILL, held=held)
    assert code == -signal.SIGKILL
    journal = Journal(Path(str(run.results)) / "resumed" / "0001")
    assert list(journal.settled()) == ["000"]
    result = sweep(space, run, resume="resumed-0001")
    assert [(trial.name, trial.status) for trial in result.trials] == [(f"00{n}", "finished") for n in range(3)]
    for trial, wanted in zip(result.trials, steps, strict=True):
        assert trial.metrics["step"] == wanted
        assert trial.run_id is not None
        assert Path(trial.folder or "").name == ("0002" if trial.name == "002" else "0001")
        assert steps_of(client, trial.run_id, "reconstruction/loss") == list(range(1, wanted + 1))
    assert client.get_run(result.handle.run_id).info.status == "FINISHED"
    statuses = [run.info.status for run in children(client, result.handle.run_id)]
    assert sorted(statuses) == ["FINISHED"] * 3 + ["KILLED"]  # the one that began in vain
