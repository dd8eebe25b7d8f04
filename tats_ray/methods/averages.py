"""Averages: sums and counts of what a step measured, kept on the device until somebody reads them."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Tally:
    """How often each of some numbers occurred."""

    size: int
    """Numbers that there are."""
    times: Counter[int] = field(default_factory=Counter)


class Averages:
    """Running means under documented metric names; reading is left to the training loop, which adds up all workers."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}
        self._tallies: dict[str, Tally] = {}

    def add(self, name: str, values: Tensor | float) -> None:
        """Count every element of ``values`` once under ``name``."""
        values = torch.as_tensor(values, dtype=torch.float32).detach()
        total = values.sum()
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts.get(name, 0.0) + values.numel()

    def add_all(self, group: str, values: Mapping[str, Tensor]) -> None:
        """Count every entry under ``group/name``."""
        for name, value in values.items():
            self.add(f"{group}/{name}", value)

    def tally(self, name: str, numbers: Tensor, *, size: int) -> None:
        """Count how often each number occurs, of the ``size`` numbers that there are; this waits for the device."""
        values, times = (part.tolist() for part in numbers.unique(return_counts=True))
        self._tallies.setdefault(name, Tally(size)).times.update(dict(zip(values, times, strict=True)))

    def take_tallies(self) -> dict[str, Tally]:
        """Return the tallies by name, and start anew."""
        taken, self._tallies = self._tallies, {}
        return taken

    def take(self) -> dict[str, tuple[float, float]]:
        """Return sum and count of every name, and start anew; this waits for the device."""
        taken = {name: (float(total), self._counts[name]) for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return taken


def usage(parts: Iterable[Mapping[str, Tally]]) -> dict[str, float]:
    """Return usage and perplexity of what was counted, over all ``parts`` together.

    ``name_usage`` is the share of the numbers that occurred, of as many as could have: of all, or of as many as were
    counted if these are fewer. ``name_perplexity`` is exp(entropy) of how often each occurred.
    """
    found: dict[str, float] = {}
    sums: dict[str, Tally] = {}
    for part in parts:
        for name, tally in part.items():
            sums.setdefault(name, Tally(tally.size)).times.update(tally.times)
    for name, tally in sums.items():
        total = tally.times.total()
        shares = [count / total for count in tally.times.values()]
        found[f"{name}_usage"] = len(shares) / min(total, tally.size)
        found[f"{name}_perplexity"] = math.exp(-math.fsum(share * math.log(share) for share in shares))
    return found
