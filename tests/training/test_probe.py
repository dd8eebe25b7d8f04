"""The ridge probe while training: what it is told apart by, and that workers share it."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tats_ray.data.batches import ClipBatch
from tats_ray.evaluation.health import centred_rank, rankme
from tats_ray.methods.base import HeldOut
from tats_ray.training.context import LocalContext
from tats_ray.training.probe import ProbeClips, probe

CPU = torch.device("cpu")
SLOTS, DIM = 2, 3


@dataclass
class Brightness:
    """A method whose features are the brightness of each half of a clip, with noise that is a function of the clip."""

    time_slots: int = SLOTS

    def features(self, video: Tensor) -> Tensor:
        halves = video.float().flatten(2).unflatten(1, (SLOTS, -1)).mean((2, 3))
        return torch.stack([halves, halves.square(), halves.sin()], dim=2).flatten(1)


class Alone(LocalContext):
    """The first of workers of which the others' parts are given."""

    def __init__(self, others: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__(CPU)
        self._others = list(others)

    def all_gather(self, value: object) -> list[object]:
        return [value, self._others.pop(0)]


def clips(labels: Tensor) -> Tensor:
    """Clips that are bright in their first half (class 0), their second (1), or throughout (2)."""
    video = torch.zeros(len(labels), 4, 2, 2, 3, dtype=torch.uint8)
    for row, label in enumerate(labels.tolist()):
        video[row, :2] = 200 + row if label in (0, 2) else row
        video[row, 2:] = 200 + row if label in (1, 2) else row
    return video


def held_out(labels: Tensor) -> HeldOut:
    batch = ClipBatch(clips(labels), row=torch.arange(len(labels)))
    return HeldOut(batch=batch, clocks=torch.zeros(len(labels), 1), truth={}, labels=labels)


def test_what_the_features_tell_apart_is_told_apart() -> None:
    labels = torch.arange(30) % 3
    found = probe(Brightness(), ProbeClips(clips(labels), labels), held_out(labels[:7]), LocalContext(CPU))
    assert found["probe/ridge_top1"] == 1.0
    features = Brightness().features(clips(labels)).unflatten(1, (SLOTS, DIM)).mean(1)
    assert found["probe/rankme"] == pytest.approx(rankme(features))
    assert found["probe/centred_rank"] == pytest.approx(centred_rank(features))


def test_labels_that_the_features_do_not_know_are_not_told_apart() -> None:
    labels = torch.arange(30) % 3
    wrong = held_out(torch.tensor([0, 1, 2, 0]))
    told = HeldOut(batch=wrong.batch, clocks=wrong.clocks, truth={}, labels=torch.tensor([1, 2, 0, 0]))
    found = probe(Brightness(), ProbeClips(clips(labels), labels), told, LocalContext(CPU))
    assert found["probe/ridge_top1"] == 0.25  # the last of them alone


def test_workers_share_their_clips() -> None:
    """The first worker holds two classes, another the third, and the held-out clips of it."""
    labels = torch.arange(30) % 3
    mine, others = labels < 2, labels == 2
    features = Brightness().features(clips(labels))
    third = Brightness().features(clips(torch.tensor([2, 2])))
    context = Alone([(features[others], labels[others]), (third, torch.tensor([2, 2]))])
    found = probe(Brightness(), ProbeClips(clips(labels)[mine], labels[mine]), held_out(torch.tensor([0, 1])), context)
    assert found["probe/ridge_top1"] == 1.0


def test_a_worker_without_clips_takes_part() -> None:
    labels = torch.arange(6) % 2
    rows = Brightness().features(clips(labels))
    context = Alone([(rows, labels), (rows[:2], labels[:2])])
    none = torch.zeros(0, dtype=torch.int64)
    found = probe(Brightness(), ProbeClips(clips(none), none), held_out(none), context)
    assert found["probe/ridge_top1"] == 1.0


def test_one_class_gives_no_numbers() -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    assert probe(Brightness(), ProbeClips(clips(labels), labels), held_out(labels), LocalContext(CPU)) == {}
