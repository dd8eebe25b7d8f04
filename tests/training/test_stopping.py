"""A run that stops and resumes is the run that never stopped."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tats_ray.interruption import Stopped
from tats_ray.masking.adamae import AdaMAEConfig
from tats_ray.methods.build import VisibleConfig
from tats_ray.training.loop import Job, LoopState, train
from tats_ray.training.quarantine import DataLossError
from tats_ray.training.state import (
    latest_checkpoint,
)

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))
STEPS, TATS, everything, resumed = (MADE[name] for name in ("STEPS", "TATS", "everything", "resumed"))


@pytest.mark.parametrize("visible", [TATS, AdaMAEConfig(num_heads=2)], ids=["tats", "adamae with dropout"])
def test_a_stopped_run_resumes_bit_for_bit(
    visible: VisibleConfig, make_job: Callable[..., Job], shares: Callable
) -> None:
    whole = make_job(visible, folder="whole")
    state = train(whole, LoopState(), shares())
    part = make_job(visible, folder="part")
    with pytest.raises(DataLossError, match=r"ended after step 11 of 14; start the run again"):
        train(part, LoopState(), shares(last=11))  # in the middle of a rollout
    checkpoint = latest_checkpoint(part.folder / "checkpoints")
    assert checkpoint is not None
    # TATS's checkpoint of step 8 waited for the update after step 9; by then the policy draws.
    assert checkpoint.name == ("step_00000009" if visible.kind == "tats" else "step_00000008")
    rest = make_job(visible, folder="part")
    for module in rest.method.modules().values():
        torch.nn.utils.vector_to_parameters(torch.zeros(10**6), module.parameters())
    again = resumed(rest, checkpoint)
    assert rest.method.stage == ("policy" if visible.kind == "tats" else "joint")
    assert train(rest, again, shares(again.step)) == state
    wanted, found = everything(whole), everything(rest)
    assert wanted.keys() == found.keys()
    assert not [name for name, value in wanted.items() if not torch.equal(value, found[name])]
    assert rest.method.state_dict() == whole.method.state_dict()


@pytest.mark.parametrize(("asked_after", "left_after"), [(0, 0), (7, 9), (9, 9)])
def test_a_run_that_is_asked_to_stop_leaves_at_rest_and_goes_on_bit_for_bit(
    make_job: Callable[..., Job], shares: Callable, asked_after: int, left_after: int
) -> None:
    def job_of(folder: str) -> Job:
        job = make_job(folder=folder)
        return replace(
            job, config=job.config.model_copy(update={"checkpoint_every": STEPS}), max_failed_share=1.0, log_every=4
        )

    whole, part, rest = (job_of(folder) for folder in ("whole", "part", "part"))
    state = train(whole, LoopState(), shares(failures=1))
    part.context.asked_after = asked_after
    with pytest.raises(Stopped, match=f"after step {left_after} of 14"):
        train(part, LoopState(), shares(failures=1))
    assert part.context.saved == [f"step_{left_after:08d}"] * bool(left_after)
    assert list(part.tracker.points.get("reconstruction/loss", ())) == [4, 8, 9][: left_after and 3]
    checkpoint = latest_checkpoint(part.folder / "checkpoints")
    again = LoopState() if checkpoint is None else resumed(rest, checkpoint)
    assert train(rest, again, shares(again.step, failures=1)) == state
    wanted, found = everything(whole), everything(rest)
    assert not [name for name, value in wanted.items() if not torch.equal(value, found[name])]
