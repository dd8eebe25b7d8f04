"""When the loop takes checkpoints, what they hold, and which are kept."""

import runpy
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tats_ray.tracking.progress import ProgressState
from tats_ray.training import checkpointer
from tats_ray.training.loop import Job, LoopState, train
from tats_ray.training.quarantine import DataLossError
from tats_ray.training.state import (
    Captured,
    CheckpointError,
    checkpoint_measured,
    latest_checkpoint,
    write_checkpoint,
)

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))
STEPS, Watched, everything, resumed = (MADE[name] for name in ("STEPS", "Watched", "everything", "resumed"))


def test_checkpoints_are_taken_at_rest_and_at_the_end(make_job: Callable[..., Job], shares: Callable) -> None:
    job = make_job()
    state = train(job, LoopState(), shares())
    # Due at 4, 8 and 12. Rollouts begin at step 4, are thrown away at the switch after step 6, and fill after 9 and 12.
    assert job.context.saved == ["step_00000006", "step_00000009", "step_00000012", "step_00000014"]
    assert state.step == STEPS
    assert state.clips == STEPS * 8
    shown = [seen.step for seen in job.context.seen]
    assert shown == list(range(shown[0], STEPS + 1))
    assert job.context.seen[-1].stage == "policy"


def test_the_launcher_hears_of_a_checkpoint_when_the_next_is_due(
    make_job: Callable[..., Job], shares: Callable
) -> None:
    job = make_job()
    with pytest.raises(DataLossError):
        train(job, LoopState(), shares(last=11))
    assert job.context.saved == ["step_00000006", "step_00000009"]


def test_a_checkpoint_holds_the_weights_of_its_step_although_it_is_written_later(
    make_job: Callable[..., Job], shares: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: dict[int, dict[str, Tensor]] = {}
    later = threading.Event()

    class Keeper(Watched):
        def progress(self, state: ProgressState) -> None:
            trained[state.step] = {name: value.clone() for name, value in everything(job).items()}
            if state.step in (8, 11, 13):  # two, two and one step after the checkpoint
                later.set()

    def slow(root: Path, captured: Captured) -> Path:
        assert captured.step == STEPS or later.wait(30)
        later.clear()
        return write_checkpoint(root, captured)

    monkeypatch.setattr(checkpointer, "write_checkpoint", slow)
    job = replace(make_job(), context=Keeper(), log_every=1)
    train(job, LoopState(), shares())
    moved = [
        name
        for step in (6, 9, 12)
        for name, value in trained[step].items()
        if not torch.equal(value, trained[step + 1][name])
    ]
    assert any(name.startswith("autoencoder.encoder") for name in moved)
    assert any(name.endswith("exp_avg") for name in moved)
    for step in (6, 9, 12, 14):
        other = make_job(folder="other")
        resumed(other, job.folder / "checkpoints" / f"step_{step:08d}")
        found = everything(other)
        assert found.keys() == trained[step].keys()
        assert all(torch.equal(value, found[name]) for name, value in trained[step].items())


def test_a_checkpoint_that_cannot_be_written_ends_the_run_at_the_next_step(
    make_job: Callable[..., Job], shares: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def full(root: Path, captured: Captured) -> Path:
        if captured.step == 6:
            return write_checkpoint(root, captured)
        failed.set()
        raise CheckpointError("the disk is full")

    class Waiting(Watched):
        def progress(self, state: ProgressState) -> None:
            super().progress(state)
            if state.step == 9:
                assert failed.wait(30)
                time.sleep(0.05)  # the thread's result follows

    monkeypatch.setattr(checkpointer, "write_checkpoint", full)
    job = replace(make_job(), context=Waiting())
    state = LoopState()
    with pytest.raises(CheckpointError, match=r"^the disk is full$"):
        train(job, state, shares())
    assert state.step == 9
    assert job.context.saved == ["step_00000006"]
    left = latest_checkpoint(job.folder / "checkpoints")
    assert left is not None
    assert left.name == "step_00000006"


def test_a_metric_that_is_not_measured_is_refused_before_a_step(make_job: Callable[..., Job]) -> None:
    job = make_job()
    job = replace(job, config=job.config.model_copy(update={"keep_best": "validation/accuracy"}))
    with pytest.raises(
        CheckpointError, match=r"training\.keep_best=validation/accuracy .*validation/random_mask_error"
    ):
        train(job, LoopState(), iter(lambda: pytest.fail("a share was asked for"), None))


def test_the_best_is_kept_beside_the_newest(make_job: Callable[..., Job], shares: Callable) -> None:
    job = make_job()
    update = {"keep_best": "validation/random_mask_error", "keep_best_mode": "max", "keep_checkpoints": 1}
    job = replace(job, config=job.config.model_copy(update=update))
    train(job, LoopState(), shares())
    errors = job.tracker.points["validation/random_mask_error"]
    assert errors[6] == max(errors[step] for step in (6, 9, 12, 14))  # of untrained weights
    found = sorted(path.name for path in (job.folder / "checkpoints").iterdir())
    assert found == ["step_00000006", "step_00000014"]
    assert checkpoint_measured(job.folder / "checkpoints" / found[0])["validation/random_mask_error"] == errors[6]
