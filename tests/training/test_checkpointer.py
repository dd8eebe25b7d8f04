"""Checkpoints written in the background: what stays, what the launcher is told, and what a full disk does."""

import errno
import json
import resource
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from tats_ray.training import checkpointer as module
from tats_ray.training import state
from tats_ray.training.checkpointer import Checkpointer, Retention
from tats_ray.training.context import LocalContext
from tats_ray.training.optim import OptimConfig, scheduled_trainable
from tats_ray.training.state import (
    Captured,
    CheckpointError,
    capture,
    latest_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)

CPU = torch.device("cpu")
WIDTH = 256
BYTES = 4 * WIDTH * WIDTH
"""Of the weights; the two moments of AdamW are twice as many."""


class Told(LocalContext):
    """Keeps what the launcher was told, and checks that it is complete."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.told: list[tuple[str, dict[str, float]]] = []

    def checkpointed(self, folder: Path, metrics: Mapping[str, float]) -> None:
        verify_checkpoint(folder)
        self.told.append((folder.name, dict(metrics)))


def taken(step: int, over: Captured | None = None) -> Captured:
    """A state of some hundred kilobytes."""
    torch.manual_seed(step)
    layer = nn.Linear(WIDTH, WIDTH, bias=False)
    trainable = scheduled_trainable(layer, OptimConfig(), global_batch=256, total_steps=10)
    layer(torch.ones(1, WIDTH)).sum().backward()
    trainable.optimizer.step()
    return capture(
        step=step,
        modules={"layer": layer},
        trainables={"layer": trainable},
        state={"loop": {"step": step}},
        measured={"validation/x": float(step)},
        run_id="a1b2",
        over=over,
    )


def save(made: Checkpointer, step: int) -> None:
    made.save(lambda over: taken(step, over), measured={"validation/x": float(step)})


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes, by the operating system's own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_launcher_is_told_when_the_next_is_due_and_at_the_end(tmp_path: Path) -> None:
    context = Told()
    with Checkpointer(tmp_path, context, Retention(9)) as made:
        save(made, 1)
        assert context.told == []
        save(made, 2)
        assert context.told == [("step_00000001", {"validation/x": 1.0})]
        made.settle()
        assert [name for name, _ in context.told] == ["step_00000001", "step_00000002"]
        made.settle()
    assert len(context.told) == 2  # once each


def test_the_index_says_step_measurement_and_run(tmp_path: Path) -> None:
    index = json.loads((write_checkpoint(tmp_path, taken(3)) / "checkpoint.json").read_text())
    assert (index["step"], index["measured"], index["mlflow_run_id"]) == (3, {"validation/x": 3.0}, "a1b2")


def test_one_write_at_a_time_and_training_goes_on_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, at_work, most = threading.Event(), [], []

    def slow(root: Path, captured: Captured) -> Path:
        at_work.append(captured.step)
        most.append(len(at_work))
        assert go.wait(30)
        at_work.remove(captured.step)
        return write_checkpoint(root, captured)

    monkeypatch.setattr(module, "write_checkpoint", slow)
    with Checkpointer(tmp_path, Told(), Retention(9)) as made:
        save(made, 1)  # returns although the write does not end
        assert latest_checkpoint(tmp_path) is None
        go.set()
        save(made, 2)
        save(made, 3)
    assert most == [1, 1, 1]
    assert names(tmp_path) == ["step_00000001", "step_00000002", "step_00000003"]


def test_a_copy_takes_over_the_memory_of_the_one_before_and_none_of_its_content() -> None:
    first, plain = taken(1), taken(2)
    weight = first.modules["layer"]["weight"]
    again = taken(2, over=first)
    assert again.modules["layer"]["weight"] is weight
    assert torch.equal(weight, plain.modules["layer"]["weight"])
    moments = [made.training["optimizers"]["layer"]["state"][0] for made in (again, plain)]  # type: ignore[index]
    assert moments[0].keys() == moments[1].keys()
    assert all(torch.equal(moments[0][name], value) for name, value in moments[1].items())
    assert again.training["state"] == {"loop": {"step": 2}}


def test_a_copy_does_not_follow_what_is_copied() -> None:
    layer = nn.Linear(2, 2)
    state = {"loop": {"events": {"on": 1.0}}}
    made = capture(step=1, modules={"layer": layer}, trainables={}, state=state, measured={}, run_id=None)
    before = made.modules["layer"]["weight"].clone()
    with torch.no_grad():
        layer.weight.add_(1)
    state["loop"]["events"]["off"] = 2.0
    assert torch.equal(made.modules["layer"]["weight"], before)
    assert made.training["state"] == {"loop": {"events": {"on": 1.0}}}


def test_an_exception_waits_for_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = threading.Event()

    def slow(root: Path, captured: Captured) -> Path:
        assert raised.wait(30)
        return write_checkpoint(root, captured)

    monkeypatch.setattr(module, "write_checkpoint", slow)
    with pytest.raises(KeyboardInterrupt), Checkpointer(tmp_path, Told(), Retention(9)) as made:  # noqa: PT012
        save(made, 1)
        raised.set()
        raise KeyboardInterrupt
    assert names(tmp_path) == ["step_00000001"]


@pytest.mark.parametrize("size", [BYTES // 2, BYTES * 3 // 2], ids=["weights", "optimizer"])
def test_a_write_that_really_fails_ends_the_run_and_leaves_the_one_before(tmp_path: Path, size: int) -> None:
    with Checkpointer(tmp_path, Told(), Retention(1)) as made:
        save(made, 1)
        made.settle()
        before = {path: path.read_bytes() for path in (tmp_path / "step_00000001").iterdir()}
        with disk_of(size):
            save(made, 2)
            with pytest.raises(CheckpointError) as refused:
                made.settle()
    message = str(refused.value)
    assert str(tmp_path / "step_00000002") in message
    assert "File too large" in message
    assert "free space" in message
    assert f"the previous checkpoint {tmp_path / 'step_00000001'} is intact" in message
    assert names(tmp_path) == ["step_00000001"]  # nor half of the second
    assert {path: path.read_bytes() for path in (tmp_path / "step_00000001").iterdir()} == before
    verify_checkpoint(tmp_path / "step_00000001")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_what_the_disk_says_at_the_flush_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(path: Path) -> None:
        raise OSError(number, "no more of it")

    monkeypatch.setattr(state, "_flush", full)
    with pytest.raises(CheckpointError, match=r"no more of it; free space .*there is no earlier checkpoint"):
        write_checkpoint(tmp_path / "new", taken(1))
    assert names(tmp_path / "new") == []


def test_a_failed_write_is_known_before_the_next_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()

    def full(root: Path, captured: Captured) -> Path:
        failed.set()
        raise CheckpointError("full")

    monkeypatch.setattr(module, "write_checkpoint", full)
    with Checkpointer(tmp_path, Told(), Retention(1)) as made:
        assert not made.failed
        save(made, 1)
        assert failed.wait(30)
        while not made.failed:
            pass
        with pytest.raises(CheckpointError, match=r"^full$"):
            made.settle()


def test_a_second_failure_does_not_hide_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(root: Path, captured: Captured) -> Path:
        raise CheckpointError("full")

    monkeypatch.setattr(module, "write_checkpoint", full)
    with pytest.raises(KeyError) as first, Checkpointer(tmp_path, Told(), Retention(1)) as made:  # noqa: PT012
        save(made, 1)
        raise KeyError
    assert first.value.__notes__ == ["full"]


def test_other_workers_hear_of_the_failure_of_the_first(tmp_path: Path) -> None:
    class Second(Told):
        rank, world_size = 1, 2

        def all_gather(self, value: object) -> list[object]:
            assert value is None
            return ["full", value]

    context = Second()
    with Checkpointer(tmp_path, context, Retention(1)) as made:
        made.save(lambda over: pytest.fail("only the first worker saves"), measured={})
        with pytest.raises(CheckpointError, match=r"^full$"):
            made.settle()
    assert context.told == []


@pytest.fixture
def make_checkpoints(tmp_path: Path) -> Callable[..., Path]:
    def make(values: Mapping[int, float | None]) -> Path:
        for step, value in values.items():
            folder = tmp_path / f"step_{step:08d}"
            folder.mkdir()
            measured = {} if value is None else {"validation/x": value}
            (folder / "checkpoint.json").write_text(json.dumps({"step": step, "measured": measured, "files": {}}))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(1), [6]),
        (Retention(2), [5, 6]),
        (Retention(1, after=(2, 4)), [2, 4, 6]),
        (Retention(9), [1, 2, 3, 4, 5, 6]),
        (Retention(1, "validation/x", "min"), [4, 6]),  # of two that are best, the newer
        (Retention(2, "validation/x", "max"), [1, 5, 6]),
        (Retention(3, "validation/x", "min"), [4, 5, 6]),  # the best may be among the newest
        (Retention(1, "validation/y", "min"), [6]),
    ],
    ids=str,
)
def test_the_newest_and_the_best_stay(make_checkpoints: Callable, retention: Retention, kept: list[int]) -> None:
    root = make_checkpoints({1: 9.0, 2: 0.5, 3: float("nan"), 4: 0.5, 5: None, 6: 0.7})
    retention.apply(root)
    assert names(root) == [f"step_{step:08d}" for step in kept]


def test_the_best_outlives_many(make_checkpoints: Callable) -> None:
    retention = Retention(2, "validation/x", "min")
    left = {}
    for step, value in enumerate([0.9, 0.3, 0.5, 0.4, 0.2, 0.6, 0.7], start=1):
        root = make_checkpoints({step: value})
        retention.apply(root)
        left[step] = [int(name.removeprefix("step_")) for name in names(root)]
    assert left == {1: [1], 2: [1, 2], 3: [2, 3], 4: [2, 3, 4], 5: [4, 5], 6: [5, 6], 7: [5, 6, 7]}


def test_what_is_not_a_number_is_not_the_best(make_checkpoints: Callable) -> None:
    root = make_checkpoints({1: 0.3, 2: 0.5, 3: float("nan")})
    Retention(1, "validation/x", "min").apply(root)
    assert names(root) == ["step_00000001", "step_00000003"]


def test_a_damaged_checkpoint_is_not_the_best(make_checkpoints: Callable) -> None:
    root = make_checkpoints({1: 0.1, 2: 0.2, 3: 0.3})
    (root / "step_00000001" / "checkpoint.json").write_text("{")
    Retention(1, "validation/x", "min").apply(root)
    assert names(root) == ["step_00000002", "step_00000003"]


def test_an_old_one_that_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with Checkpointer(tmp_path, Told(), Retention(1)) as made:
        save(made, 1)
        made.settle()
        monkeypatch.setattr(shutil, "rmtree", refuse)
        save(made, 2)
        with pytest.raises(CheckpointError, match=r"could not be removed: .*step_00000001.*step_00000002 is intact"):
            made.settle()
