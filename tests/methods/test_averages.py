"""Sums and counts by hand."""

import torch

from tats_ray.methods.averages import Averages


def test_every_element_counts_once() -> None:
    averages = Averages()
    averages.add("a", torch.tensor([1.0, 2.0]))
    averages.add("a", 6.0)
    averages.add_all("ppo", {"kl": torch.tensor([0.5])})
    assert averages.take() == {"a": (9.0, 3), "ppo/kl": (0.5, 1)}


def test_taking_starts_anew() -> None:
    averages = Averages()
    averages.add("a", 1.0)
    averages.take()
    assert averages.take() == {}


def test_nothing_measured_counts_nothing() -> None:
    averages = Averages()
    averages.add("a", torch.zeros(0))
    assert averages.take() == {"a": (0.0, 0)}


def test_no_graph_is_kept() -> None:
    averages = Averages()
    value = torch.ones(2, requires_grad=True)
    averages.add("a", value * 2)
    assert not averages._sums["a"].requires_grad
