"""The loop over made-up shares: cadences, lost clips, the ledger."""

import csv
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tats_ray.training.ledger import PARTS
from tats_ray.training.loop import Job, LoopState, seeded, train
from tats_ray.training.quarantine import DataLossError
from tats_ray.training.state import (
    load_checkpoint,
)

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))
STEPS, everything = (MADE[name] for name in ("STEPS", "everything"))


def test_no_pictures_means_none_at_all(make_job: Callable[..., Job], shares: Callable) -> None:
    job = make_job()
    job.method.snapshot = lambda held_out: pytest.fail("a picture was made")  # type: ignore[method-assign]
    train(replace(job, config=job.config.model_copy(update={"picture_every": None})), LoopState(), shares())


def test_the_ledger_books_all_time_and_the_flops_of_the_stages(make_job: Callable[..., Job], shares: Callable) -> None:
    job = make_job()
    state = train(job, LoopState(), shares())
    points = job.tracker.points
    for step in (5, 10, 14):
        share = {part: points[f"time/{part}_share"][step] for part in PARTS}
        assert sum(share.values()) == pytest.approx(1)
        assert all(share[part] > 0 for part in ("wait", "transfer", "autoencoder", "sampler", "optimizer", "other"))
    assert points["time/validation_share"][5] > 0
    assert points["time/checkpoint_share"][10] > 0
    # The sampler takes part from the step after its switch at 3.
    assert state.flops == 8 * (3 * 100 + 11 * 150)
    rate = points["throughput/clips_per_second"]
    assert points["throughput/mfu"][14] == pytest.approx(rate[14] * 150 / 1e12)
    assert points["throughput/mfu"][5] == pytest.approx(rate[5] * (3 * 100 + 2 * 150) / 5 / 1e12)
    rest = make_job(folder="rest")
    saved = load_checkpoint(
        job.folder / "checkpoints" / "step_00000012",
        rest.method.modules(),
        rest.stepper.trainables,
        device=torch.device("cpu"),
    )
    before = LoopState(**saved["loop"]).seconds  # type: ignore[arg-type]
    assert all(0 < before[part] < state.seconds[part] for part in ("autoencoder", "sampler", "optimizer"))


def test_cadences_and_events(make_job: Callable[..., Job], shares: Callable) -> None:
    job = make_job()
    state = train(job, LoopState(), shares())
    points = job.tracker.points
    assert list(points["reconstruction/loss"]) == [5, 10, 14]
    assert list(points["validation/random_mask_error"]) == [3, 6, 9, 12, 14]
    assert points["sampler/critic_on_step"] == {3: 3.0}
    assert points["sampler/policy_on_step"] == {6: 6.0}
    assert state.events["sampler/policy_on_step"] == 6.0
    assert state.measured["validation/random_mask_error"] == points["validation/random_mask_error"][14]
    assert set(points["optimizer/sampler_learning_rate"].values()) == {3e-3}
    assert all(0 <= share <= 1 for share in points["time/wait_share"].values())


def test_dropout_is_a_function_of_seed_step_and_first_clip(make_job: Callable[..., Job], make_batch: Callable) -> None:
    stepper = make_job().stepper

    def noise(*cuts: range, seed: int = 0, step: int = 0) -> list[float]:
        batches = seeded([make_batch(cut) for cut in cuts], torch.device("cpu"), seed=seed, step=step, stepper=stepper)
        return [torch.rand(()).item() for _ in batches]

    both = noise(range(4), range(4, 8))
    assert both[0] != both[1]
    assert noise(range(4, 8)) == both[1:]  # as on a worker of its own
    assert len({*both, *noise(range(4), step=1), *noise(range(4), seed=1)}) == 4
    assert len(noise(range(0))) == 1  # a share that lost all its clips


def test_more_shares_than_steps_are_not_asked_for(make_job: Callable[..., Job], shares: Callable) -> None:
    source = shares(last=100)
    assert train(make_job(), LoopState(), source).step == STEPS
    assert next(source) is not None


def test_lost_clips_are_counted_and_listed(make_job: Callable[..., Job], shares: Callable) -> None:
    job = replace(make_job(), max_failed_share=1.0)
    state = train(job, LoopState(), shares(failures=2))
    assert state.failed_clips == 2 * STEPS
    header, *rows = csv.reader((job.folder / "quarantine.csv").read_text().splitlines())
    assert header == ["time", "step", "path", "reason"]
    assert [row[1:] for row in rows[:3]] == [["1", "0.mp4", "torn"], ["1", "1.mp4", "torn"], ["2", "0.mp4", "torn"]]
    assert len(rows) == 2 * STEPS
    assert job.tracker.points["data/failed_clips"] == {5: 10.0, 10: 20.0, 14: 28.0}
    assert job.tracker.files == [("quarantine.csv", "data")] * 5  # it grew by each of the five validations


def test_held_out_videos_that_do_not_decode_are_listed_and_counted(
    make_job: Callable[..., Job], shares: Callable
) -> None:
    job = make_job()
    job = replace(job, held_out=replace(job.held_out, failures=[("held.mp4", "torn")]))
    state = train(job, LoopState(), shares())
    assert state.failed_clips == 0
    (row,) = csv.DictReader((job.folder / "quarantine.csv").read_text().splitlines())
    assert (row["step"], row["path"], row["reason"]) == ("0", "held.mp4", "torn")
    assert set(job.tracker.points["data/failed_held_out"].values()) == {1.0}
    assert job.tracker.files == [("quarantine.csv", "data")]


def test_a_run_that_may_lose_nothing_ends_at_the_first_clip(make_job: Callable[..., Job], shares: Callable) -> None:
    job, state = replace(make_job(), on_error="fail"), LoopState()
    with pytest.raises(DataLossError, match=r"0\.mp4 could not be decoded: torn; data\.on_error=fail"):
        train(job, state, shares(failures=1))
    assert state.step == 0
    assert job.tracker.files == [("quarantine.csv", "data")]


def test_too_many_lost_clips_end_the_run(make_job: Callable[..., Job], shares: Callable) -> None:
    job = make_job()  # allows 0.001 of at least 1,000 clips: one
    with pytest.raises(
        DataLossError, match=r"2 of 8 clips .*data\.max_failed_share=0\.001 .*quarantine.csv: index"
    ) as end:
        train(job, LoopState(), shares(failures=2))
    assert str(job.folder) in str(end.value)
    assert (job.folder / "quarantine.csv").exists()  # the list outlives the run


def test_a_step_that_lost_all_its_clips_changes_no_weight(make_job: Callable[..., Job], shares: Callable) -> None:
    job = replace(make_job(), max_failed_share=1.0, total_steps=3)
    before = {name: value.clone() for name, value in everything(job).items()}
    state = train(job, LoopState(), shares(failures=8, last=3))
    assert state.step == 3
    assert all(torch.equal(before[name], value) for name, value in everything(job).items())
