"""The loop over made-up shares: a run that stops and resumes is the run that never stopped."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tats_ray.data.clips import ClipBatch
from tats_ray.data.loader import StepShare
from tats_ray.geometry import TokenGrid
from tats_ray.masking.adamae import AdaMAEConfig
from tats_ray.masking.draws import exponential_clocks
from tats_ray.masking.tats import SwitchConfig, TATSConfig
from tats_ray.methods.averages import Averages
from tats_ray.methods.base import HeldOut
from tats_ray.methods.build import VisibleConfig
from tats_ray.rl.ppo import PPOConfig
from tats_ray.tracking.base import NullTracker
from tats_ray.tracking.progress import ProgressState
from tats_ray.training import loop
from tats_ray.training.context import LocalContext
from tats_ray.training.loop import DataLossError, Job, LoopState, TrainingConfig, reduce_means, train
from tats_ray.training.state import latest_checkpoint, load_checkpoint

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

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        for name, value in metrics.items():
            self.points.setdefault(name, {})[step] = value


class Watched(LocalContext):
    """Keeps what the launcher was told."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.seen: list[ProgressState] = []
        self.saved: list[str] = []

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
            max_failed_share=0.001,
            folder=tmp_path / folder,
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


def test_more_shares_than_steps_are_not_asked_for(make_job: Callable[..., Job], shares: Callable) -> None:
    source = shares(last=100)
    assert train(make_job(), LoopState(), source).step == STEPS
    assert next(source) is not None


def test_lost_clips_are_counted_and_listed(make_job: Callable[..., Job], shares: Callable) -> None:
    job = replace(make_job(), max_failed_share=1.0)
    state = train(job, LoopState(), shares(failures=2))
    assert state.failed_clips == 2 * STEPS
    lines = (job.folder / "failed_clips.0.csv").read_text().splitlines()
    assert lines[:3] == ["0,0.mp4,torn", "0,1.mp4,torn", "1,0.mp4,torn"]
    assert len(lines) == 2 * STEPS
    assert isinstance(job.tracker, Recorder)
    assert job.tracker.points["data/failed_clips"] == {5: 10.0, 10: 20.0, 14: 28.0}


def test_too_many_lost_clips_end_the_run(make_job: Callable[..., Job], shares: Callable) -> None:
    job = make_job()  # allows 0.001 of at least 1,000 clips: one
    with pytest.raises(
        DataLossError, match=r"2 of 8 clips .*data\.max_failed_share=0\.001 .*failed_clips.*index"
    ) as end:
        train(job, LoopState(), shares(failures=2))
    assert str(job.folder) in str(end.value)
    assert (job.folder / "failed_clips.0.csv").exists()  # the list outlives the run


def test_a_step_that_lost_all_its_clips_changes_no_weight(make_job: Callable[..., Job], shares: Callable) -> None:
    job = replace(make_job(), max_failed_share=1.0, total_steps=3)
    before = {name: value.clone() for name, value in everything(job).items()}
    state = train(job, LoopState(), shares(failures=8, last=3))
    assert state.step == 3
    assert all(torch.equal(before[name], value) for name, value in everything(job).items())


class Pair(LocalContext):
    """Rank 0 of two; the other's numbers are given."""

    def __init__(self, other: object) -> None:
        super().__init__(torch.device("cpu"))
        self.other = other

    def all_gather(self, value: object) -> list[object]:
        return [value, self.other]


def test_means_weigh_every_element_alike() -> None:
    averages = Averages()
    averages.add("loss", torch.tensor([1.0, 2.0, 3.0]))
    averages.add("empty", torch.zeros(0))
    means = reduce_means(averages, Pair({"loss": (10.0, 1.0), "elsewhere": (3.0, 2.0)}))
    assert means == {"loss": 4.0, "elsewhere": 1.5}


def test_explained_variance_is_derived_from_the_sums_of_all() -> None:
    averages = Averages()
    averages.add("validation/critic_error", torch.tensor([0.3, 0.5]))
    averages.add("validation/error_variance", torch.tensor([1.5, 2.5]))
    averages.add("ppo/value_loss", torch.tensor([2.0]))
    other = {
        "validation/critic_error": (0.2, 2.0),
        "validation/error_variance": (0.0, 2.0),
        "ppo/error_variance": (0.0, 1.0),
    }
    means = reduce_means(averages, Pair(other))
    assert means["validation/explained_variance"] == pytest.approx(1 - 0.25 / 1.0)
    assert "ppo/explained_variance" not in means  # nothing varied
