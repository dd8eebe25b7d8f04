"""Checkpoints: what is saved comes back bit for bit, and what is damaged is refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tats_ray.training.checkpointer import Retention
from tats_ray.training.optim import OptimConfig, Trainable, constant_trainable, scheduled_trainable
from tats_ray.training.state import (
    CheckpointError,
    capture,
    checkpoint_measured,
    checkpoint_step,
    latest_checkpoint,
    load_checkpoint,
    load_module,
    verify_checkpoint,
    write_checkpoint,
)

CPU = torch.device("cpu")
STATE = {"loop": {"step": 3, "events": {"on": 1.5}}, "method": {"stage": "policy", "temperature": 0.7}}


class Run:
    """Two modules, each with an optimiser."""

    def __init__(self, *, seed: int, width: int = 4) -> None:
        torch.manual_seed(seed)
        # A norm with running statistics: buffers must come back too.
        autoencoder = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 4))
        self.modules: dict[str, nn.Module] = {"autoencoder": autoencoder, "tats": nn.Linear(4, 4)}
        self.trainables: dict[str, Trainable] = {
            "autoencoder": scheduled_trainable(autoencoder, OptimConfig(), global_batch=256, total_steps=10),
            "sampler": constant_trainable(self.modules["tats"], learning_rate=0.1, max_grad_norm=0.5),
        }

    def train(self, steps: int) -> None:
        for step in range(steps):
            for (_, module), trainable in zip(self.modules.items(), self.trainables.values(), strict=True):
                trainable.set_step(step)
                module(torch.ones(2, 4) * torch.tensor([[step], [1.0]])).square().sum().backward()
                trainable.optimizer.step()
                trainable.optimizer.zero_grad()

    def tensors(self) -> list[torch.Tensor]:
        found = [value for module in self.modules.values() for value in module.state_dict().values()]
        for trainable in self.trainables.values():
            for moments in trainable.optimizer.state_dict()["state"].values():
                found += [moments["step"], moments["exp_avg"], moments["exp_avg_sq"]]
        return [value.clone() for value in found]

    def save(self, root: Path, *, step: int = 3, keep: int = 2) -> Path:
        captured = capture(
            step=step,
            modules=self.modules,
            trainables=self.trainables,
            state=STATE,
            measured={"validation/random_mask_error": 0.5},
            run_id="a1b2",
        )
        folder = write_checkpoint(root, captured)
        Retention(keep).apply(root)
        return folder

    def load(self, folder: Path) -> dict[str, object]:
        return load_checkpoint(folder, self.modules, self.trainables, device=CPU)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    run = Run(seed=0)
    run.train(3)
    return run.save(tmp_path)


def test_a_run_comes_back_bit_for_bit_and_goes_on_alike(tmp_path: Path) -> None:
    run, other = Run(seed=0), Run(seed=1)
    run.train(3)
    folder = run.save(tmp_path)
    assert folder == tmp_path / "step_00000003"
    assert other.load(folder) == STATE
    assert checkpoint_step(folder) == 3
    assert checkpoint_measured(folder) == {"validation/random_mask_error": 0.5}
    for _ in range(2):
        mine, theirs = run.tensors(), other.tensors()
        assert len(mine) == len(theirs)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        run.train(2)
        other.train(2)


def test_a_single_module_comes_back(saved: Path) -> None:
    wanted, found = Run(seed=0), Run(seed=1)
    wanted.train(3)
    load_module(saved, "tats", found.modules["tats"])
    for key, value in wanted.modules["tats"].state_dict().items():
        assert torch.equal(found.modules["tats"].state_dict()[key], value)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    run = Run(seed=0)
    for step in (5, 20_000_000, 100_000_000, 9):
        run.save(tmp_path, step=step, keep=2)
    # By number, not by name; the last save, of a step before others, does not outlive them.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_100000000", "step_20000000"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step_100000000"


def test_a_half_written_folder_does_not_count(tmp_path: Path, saved: Path) -> None:
    partial = tmp_path / ".partial_step_00000009"
    partial.mkdir()
    (partial / "autoencoder.safetensors").write_bytes(b"half")
    (tmp_path / "step_99.tmp").mkdir()
    assert latest_checkpoint(tmp_path) == saved
    assert Run(seed=0).save(tmp_path, step=9) == tmp_path / "step_00000009"  # what a crash left is no obstacle
    assert not partial.exists()


def test_a_step_that_is_saved_again_is_replaced(tmp_path: Path, saved: Path) -> None:
    again = Run(seed=5)
    assert again.save(tmp_path) == saved
    fresh = Run(seed=6)
    fresh.load(saved)
    assert torch.equal(fresh.tensors()[0], again.tensors()[0])


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "none") is None
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("name", ["autoencoder.safetensors", "tats.safetensors", "training.pt"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_file_is_named_with_a_way_out(saved: Path, name: str, damage: str) -> None:
    path = saved / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-1])
    else:
        content[-1] ^= 1
        path.write_bytes(content)
    run = Run(seed=1)
    before = run.tensors()
    with pytest.raises(CheckpointError, match="--fresh") as refused:
        run.load(saved)
    assert str(path) in str(refused.value)
    assert str(saved) in str(refused.value)
    assert all(torch.equal(a, b) for a, b in zip(before, run.tensors(), strict=True))  # nothing was half loaded


@pytest.mark.parametrize("content", [None, "{", "\x00"])
def test_a_checkpoint_without_its_index_is_refused(saved: Path, content: str | None) -> None:
    index = saved / "checkpoint.json"
    index.unlink() if content is None else index.write_text(content)
    with pytest.raises(CheckpointError, match=r"no readable checkpoint\.json .*--fresh"):
        verify_checkpoint(saved)


def test_another_models_weights_are_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"autoencoder\.safetensors does not fit this model"):
        Run(seed=0, width=5).load(saved)


def test_a_module_that_is_not_there_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no adamae\.safetensors"):
        load_module(saved, "adamae", nn.Linear(2, 2))
