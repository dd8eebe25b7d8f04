"""Means over all workers, from their sums and counts."""

import pytest
import torch

from tats_ray.methods.averages import Averages
from tats_ray.training.context import LocalContext
from tats_ray.training.loop import reduce_means


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
