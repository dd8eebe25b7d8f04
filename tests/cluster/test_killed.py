"""Workers of Ray that are killed outright: replaced at once, or the run started again, on as many or another number."""

import os
import runpy
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tats_ray import worker
from tats_ray.cluster import train
from tats_ray.cluster.train import run_on_ray
from tats_ray.config.run import TrainRun
from tats_ray.driver import Outcome, RunFailedError, conduct
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.tracking.progress import ProgressState
from tats_ray.training.context import LocalContext
from tats_ray.worker import run_alone

SCRIPT = Path(__file__).parents[1] / "killing.py"
KILLING = runpy.run_path(str(SCRIPT))
STEPS = 8
ASKED_SECONDS = 300.0
"""When to give up on a signal; a few are enough."""
RunOf = Callable[..., TrainRun]

pytestmark = pytest.mark.ray


@dataclass(frozen=True)
class Scene:
    """A run that nothing disturbed, and what its runs on Ray are made of."""

    whole: Outcome
    folder: Path
    run_of: RunOf


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory,
    small_run: Callable[..., TrainRun],
    write_manifest: Callable[[Path], Path],
) -> Scene:
    folder, results = tmp_path_factory.mktemp("faults"), tmp_path_factory.mktemp("results")
    manifest = write_manifest(tmp_path_factory.mktemp("videos"))

    def run_of(name: str, *, workers: int, max_failures: int = 0) -> TrainRun:
        knobs = {
            "training.micro_batch": 2,  # so that each worker cuts its share as one worker does
            "cluster.num_workers": workers,
            "cluster.max_failures": max_failures,
            "cluster.clips_per_block": 4,
            "training.keep_checkpoints": 1,
        }
        return small_run(name, manifest=manifest, results=results, knobs=knobs)

    return Scene(execute_here(run_of("whole", workers=0), folder / "whole"), folder, run_of)


def execute_here(run: TrainRun, folder: Path) -> Outcome:
    """Train in this process, and note clips."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "run_training", worker.run_training)  # so that what is patched is taken back
        patch.setattr(train, "run_training", train.run_training)
        patch.setattr(MaskedAutoencoding, "train_step", MaskedAutoencoding.train_step)
        KILLING["arm"](None, folder)
        return conduct(run, lambda launch: run_alone(launch, LocalContext(torch.device("cpu"))))


def execute(run: TrainRun, folder: Path, *, fault: str | None) -> Outcome:
    """Train on Ray, in workers that note clips and die by a fault, once."""

    def doomed(config: dict[str, Any]) -> None:
        """Runs in a worker's process, where the patches end with it."""
        from tats_ray.cluster import train

        runpy.run_path(str(SCRIPT))["arm"](fault, folder)
        train._worker(config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_worker", doomed)
        return conduct(run, run_on_ray)


def assert_same_clips(scene: Scene, folder: Path, outcome: Outcome) -> None:
    lineage = KILLING["lineage"]
    assert lineage(folder) == lineage(scene.folder / "whole")
    assert len(lineage(folder)) == STEPS * outcome.launch.run.training.global_batch
    KILLING["check_history"](outcome.launch.handle, steps=STEPS)


def assert_same_bits(scene: Scene, outcome: Outcome) -> None:
    wanted, found = (KILLING["final_state"](one.launch.folder) for one in (scene.whole, outcome))
    assert wanted.keys() == found.keys()
    assert [name for name, value in wanted.items() if not torch.equal(value, found[name])] == []


SLOW = pytest.mark.slow
IN_WORKERS = [fault for fault in KILLING["FAULTS"] if fault != "in_a_decode"]  # Ray decodes in tasks


@pytest.mark.parametrize(
    ("workers", "fault"),
    [
        (1, "in_a_backward_pass"),
        *(pytest.param(1, fault, marks=SLOW) for fault in IN_WORKERS if fault != "in_a_backward_pass"),
        *(pytest.param(2, fault, marks=SLOW) for fault in IN_WORKERS),
    ],
)
def test_a_lost_worker_is_replaced_and_nothing_else_changes(scene: Scene, workers: int, fault: str) -> None:
    folder = scene.folder / f"{fault}-{workers}"
    outcome = execute(scene.run_of(folder.name, workers=workers, max_failures=1), folder, fault=fault)
    assert (folder / "fired").exists()
    assert_same_clips(scene, folder, outcome)
    if workers == 1:
        assert_same_bits(scene, outcome)


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        (2, 1, "after_the_report"),  # the second: the first checkpoint has been removed
        pytest.param(1, 2, "in_a_ppo_epoch", marks=SLOW),
        pytest.param(1, 1, "in_a_checkpoint", marks=SLOW),
        pytest.param(2, 2, "before_the_rename", marks=SLOW),
    ],
)
def test_the_same_command_resumes_by_our_own_checkpoint(scene: Scene, before: int, after: int, fault: str) -> None:
    name = f"{fault}-{before}-{after}"
    folder = scene.folder / name
    with pytest.raises(RunFailedError):
        execute(scene.run_of(name, workers=before), folder, fault=fault)
    assert (folder / "fired").exists()
    run = scene.run_of(name, workers=after)
    outcome = execute(run, folder, fault=None)
    assert outcome.resumed_from is not None
    assert_same_clips(scene, folder, outcome)
    if before == after == 1:
        assert_same_bits(scene, outcome)


def test_a_run_that_is_asked_to_stop_leaves_at_a_checkpoint_and_goes_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scene.folder / "asked"
    folder.mkdir()
    there, left = folder / "there", 4

    def waiting(config: dict[str, Any]) -> None:
        """Runs in the worker's process: says when it is at a step, and waits until it is asked to stop."""
        from tats_ray.cluster import train
        from tats_ray.cluster.context import RayContext

        def progress(self: RayContext, state: ProgressState) -> None:
            if state.step < left - 1:
                return
            there.touch()
            until = time.monotonic() + ASKED_SECONDS
            while not self.stopping() and time.monotonic() < until:
                time.sleep(0.01)

        RayContext.progress = progress  # type: ignore[method-assign]
        runpy.run_path(str(SCRIPT))["arm"](None, folder)
        train._worker(config)

    def interrupt() -> None:
        until = time.monotonic() + ASKED_SECONDS
        while not there.exists() and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    run = scene.run_of("asked", workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(train, "_worker", waiting)
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            conduct(run, run_on_ray)
    resumed = execute_here(scene.run_of("asked", workers=0), folder)
    assert resumed.resumed_from is not None
    assert resumed.resumed_from.name == f"step_{left:08d}"  # two steps fill a rollout
    assert_same_clips(scene, folder, resumed)
    assert_same_bits(scene, resumed)


@pytest.mark.slow
def test_a_lost_decode_task_is_done_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = scene.folder / "lost-task"
    fired = folder / "fired"

    def doomed(config: dict[str, Any]) -> None:
        """Runs in the worker's process, and hands a function that kills its process to one of Ray Data's tasks."""
        from tats_ray.cluster import dataset, train

        decode_rows = dataset.decode_rows

        def dying(table: pa.Table, **keywords: Any) -> dict[str, np.ndarray]:
            try:
                fired.touch(exist_ok=False)
            except FileExistsError:
                return decode_rows(table, **keywords)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        dataset.decode_rows = dying
        runpy.run_path(str(SCRIPT))["arm"](None, folder)
        train._worker(config)

    monkeypatch.setattr(train, "_worker", doomed)
    outcome = conduct(scene.run_of("lost-task", workers=1), run_on_ray)
    assert fired.exists()
    assert_same_clips(scene, folder, outcome)
    assert_same_bits(scene, outcome)
