"""Runs of the loop over made-up shares."""

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tats_ray.data.batches import ClipBatch
from tats_ray.data.loader import StepShare
from tats_ray.geometry import TokenGrid
from tats_ray.masking.draws import exponential_clocks
from tats_ray.methods.base import HeldOut
from tats_ray.methods.build import VisibleConfig
from tats_ray.training import loop
from tats_ray.training.config import TrainingConfig
from tats_ray.training.loop import Job

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))
STEPS, TATS, Recorder, Watched = (MADE[name] for name in ("STEPS", "TATS", "Recorder", "Watched"))


@pytest.fixture
def make_job(
    tmp_path: Path,
    grid: TokenGrid,
    make_method: Callable,
    make_stepper: Callable,
    make_batch: Callable[..., ClipBatch],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Job]:
    """Make a run of 14 steps in a folder; no pictures are written."""
    monkeypatch.setattr(loop, "write_pictures", lambda snapshot, folder, *, step: [])

    def make(visible: VisibleConfig = TATS, *, folder: str = "run") -> Job:
        method, context = make_method(visible, total_steps=STEPS), Watched()
        (tmp_path / folder).mkdir(exist_ok=True)
        clocks = exponential_clocks((4, grid.num_tokens), seed=0, step=-1, device=context.device)
        config = TrainingConfig(
            steps=STEPS, global_batch=8, precision="fp32", validate_every=3, checkpoint_every=4, keep_checkpoints=9
        )
        return Job(
            method=method,
            stepper=make_stepper(method, context=context),
            context=context,
            tracker=Recorder(),
            config=config,
            held_out=HeldOut(make_batch(range(4), seed=77), clocks, {}),
            total_steps=STEPS,
            seed=0,
            log_every=5,
            on_error="skip",
            max_failed_share=0.001,
            folder=tmp_path / folder,
            run_id="a1b2",
            flops=lambda stage: 100.0 if stage == "random" else 150.0,
            peak_flops=1e12,
        )

    return make


@pytest.fixture
def shares(make_batch: Callable[..., ClipBatch]) -> Callable[..., Iterator[StepShare]]:
    def make(first: int = 0, *, failures: int = 0, last: int = STEPS) -> Iterator[StepShare]:
        for step in range(first, last):
            lost = [(f"{number}.mp4", "torn") for number in range(failures)]
            yield StepShare([make_batch(range(failures, 8), seed=step)], lost)

    return make
