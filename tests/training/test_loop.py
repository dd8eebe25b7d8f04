"""The loop over made-up shares: a run that stops and resumes is the run that never stopped."""

import csv
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tats_ray.data.batches import ClipBatch
from tats_ray.data.loader import StepShare
from tats_ray.geometry import TokenGrid
from tats_ray.interruption import Stopped
from tats_ray.masking.adamae import AdaMAEConfig
from tats_ray.masking.draws import exponential_clocks
from tats_ray.masking.tats import SwitchConfig, TATSConfig
from tats_ray.methods.base import HeldOut
from tats_ray.methods.build import VisibleConfig
from tats_ray.rl.ppo import PPOConfig
from tats_ray.tracking.base import NullTracker
from tats_ray.tracking.progress import ProgressState
from tats_ray.training import checkpointer, loop
from tats_ray.training.config import TrainingConfig
from tats_ray.training.context import LocalContext
from tats_ray.training.ledger import PARTS
from tats_ray.training.loop import Job, LoopState, seeded, train
from tats_ray.training.quarantine import DataLossError
from tats_ray.training.state import (
    Captured,
    CheckpointError,
    checkpoint_measured,
    latest_checkpoint,
    load_checkpoint,
    write_checkpoint,
)

STEPS = 14
# Critic on at step 3 and policy at step 6; an update every 3 steps.
TATS = TATSConfig(
    embed_dim=8,
    num_heads=2,
    switch=SwitchConfig(error_spread=1e9, explained_variance=0.99, critic_by=3 / STEPS, policy_by=6 / STEPS),
    ppo=PPOConfig(rollout_steps=3, update_epochs=2, target_nats=0.1),
)


class Recorder(NullTracker):
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.points: dict[str, dict[int, float]] = {}
        self.files: list[tuple[str, str]] = []

    def log_file(self, path: Path, *, folder: str) -> None:
        self.files.append((path.name, folder))

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        for name, value in metrics.items():
            self.points.setdefault(name, {})[step] = value


class Watched(LocalContext):
    """Keeps what the launcher was told."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.seen: list[ProgressState] = []
        self.saved: list[str] = []
        self.asked_after: int | None = None

    def stopping(self) -> bool:
        done = self.seen[-1].step if self.seen else 0
        return self.asked_after is not None and done >= self.asked_after

    def progress(self, state: ProgressState) -> None:
        self.seen.append(state)

    def checkpointed(self, folder: Path, metrics: Mapping[str, float]) -> None:
        assert folder.is_dir()
        self.saved.append(folder.name)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "write_pictures", lambda snapshot, folder, *, step: [])


@pytest.fixture
def make_job(
    tmp_path: Path, grid: TokenGrid, make_method: Callable, make_stepper: Callable, make_batch: Callable[..., ClipBatch]
) -> Callable[..., Job]:
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


def everything(job: Job) -> dict[str, Tensor]:
    """Weights and moments."""
    found = {
        f"{name}.{key}": value
        for name, module in job.method.modules().items()
        for key, value in module.state_dict().items()
    }
    for name, trainable in job.stepper.trainables.items():
        for number, moments in trainable.optimizer.state_dict()["state"].items():
            found |= {f"{name}.{number}.{key}": moments[key] for key in ("step", "exp_avg", "exp_avg_sq")}
    return found


def resumed(job: Job, folder: Path) -> LoopState:
    saved = load_checkpoint(folder, job.method.modules(), job.stepper.trainables, device=job.context.device)
    job.method.load_state_dict(saved["method"])  # type: ignore[arg-type]
    return LoopState(**saved["loop"])  # type: ignore[arg-type]


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
    assert isinstance(part.context, Watched)
    assert isinstance(part.tracker, Recorder)
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


def test_checkpoints_are_taken_at_rest_and_at_the_end(make_job: Callable[..., Job], shares: Callable) -> None:
    job = make_job()
    state = train(job, LoopState(), shares())
    assert isinstance(job.context, Watched)
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
    assert isinstance(job.context, Watched)
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
    assert isinstance(job.context, Waiting)
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
    assert isinstance(job.tracker, Recorder)
    errors = job.tracker.points["validation/random_mask_error"]
    assert errors[6] == max(errors[step] for step in (6, 9, 12, 14))  # of untrained weights
    found = sorted(path.name for path in (job.folder / "checkpoints").iterdir())
    assert found == ["step_00000006", "step_00000014"]
    assert checkpoint_measured(job.folder / "checkpoints" / found[0])["validation/random_mask_error"] == errors[6]


def test_no_pictures_means_none_at_all(make_job: Callable[..., Job], shares: Callable) -> None:
    job = make_job()
    job.method.snapshot = lambda held_out: pytest.fail("a picture was made")  # type: ignore[method-assign]
    train(replace(job, config=job.config.model_copy(update={"picture_every": None})), LoopState(), shares())


def test_the_ledger_books_all_time_and_the_flops_of_the_stages(make_job: Callable[..., Job], shares: Callable) -> None:
    job = make_job()
    state = train(job, LoopState(), shares())
    assert isinstance(job.tracker, Recorder)
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
    assert isinstance(job.tracker, Recorder)
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
    assert isinstance(job.tracker, Recorder)
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
    assert isinstance(job.tracker, Recorder)
    assert set(job.tracker.points["data/failed_held_out"].values()) == {1.0}
    assert job.tracker.files == [("quarantine.csv", "data")]


def test_a_run_that_may_lose_nothing_ends_at_the_first_clip(make_job: Callable[..., Job], shares: Callable) -> None:
    job, state = replace(make_job(), on_error="fail"), LoopState()
    with pytest.raises(DataLossError, match=r"0\.mp4 could not be decoded: torn; data\.on_error=fail"):
        train(job, state, shares(failures=1))
    assert state.step == 0
    assert isinstance(job.tracker, Recorder)
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
