"""Averages: sums and counts of what a step measured, kept on the device until somebody reads them."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Averages:
    """Running means under documented metric names; reading is left to the training loop, which adds up all workers."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}

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

    def take(self) -> dict[str, tuple[float, float]]:
        """Return sum and count of every name, and start anew; this waits for the device."""
        taken = {name: (float(total), self._counts[name]) for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return taken
