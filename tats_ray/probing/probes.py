"""The probes, each on the form of the features that it takes."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from tats_ray.data.manifest import Manifest
from tats_ray.evaluation.accuracy import accuracy
from tats_ray.evaluation.health import centred_rank, rankme, spectrum
from tats_ray.evaluation.knn import knn_scores
from tats_ray.evaluation.probes import attentive_scores, linear_scores
from tats_ray.evaluation.ridge import ridge_scores
from tats_ray.evaluation.views import video_scores
from tats_ray.probing.config import EvaluationConfig, Task, ratio_name
from tats_ray.probing.frozen import ORDERS, Order
from tats_ray.probing.parts import Extraction, FeatureError, Features, read_features, read_tokens
from tats_ray.probing.results import ProbeResult


class Probing:
    """Features and labels of one evaluation, and the probes on them.

    Args:
        plans: Where the features of ``train`` and ``test`` lie.
        manifests: Their videos.
        config: Settings.
        num_classes: Classes to tell apart.
        device: Where probes are computed.
    """

    def __init__(
        self,
        plans: Mapping[str, Extraction],
        manifests: Mapping[str, Manifest],
        config: EvaluationConfig,
        *,
        num_classes: int,
        device: torch.device,
    ) -> None:
        self._plans, self._manifests, self._config = plans, manifests, config
        self._num_classes, self._device = num_classes, device
        self._labels = {name: torch.tensor(manifest.table["label"].to_pylist()) for name, manifest in manifests.items()}
        self._read: dict[tuple[str, float, Order], Features] = {}
        self.seen: dict[str, Features] = {}
        """Features of train and test that were read last; which videos failed is the same in all."""

    def features(self, name: str, ratio: float, order: Order) -> Features:
        """Return features; those of one ratio are kept."""
        key = (name, ratio, order)
        if key not in self._read:
            if any(known[1] != ratio for known in self._read):
                self._read = {}
            plan = self._plans[name]
            self._read[key] = self.seen[name] = read_features(plan, plan.reading(ratio, order), self._manifests[name])
        return self._read[key]

    def result(self, task: Task, ratio: float) -> ProbeResult:
        """Train and test one probe."""
        return self._judged(task, ratio, self.features("test", ratio, "in_order"))

    def health(self) -> dict[str, float]:
        """Return effective ranks, and the ridge probe's accuracy with frames in order, reversed and shuffled."""
        config = self._config
        found = {
            f"health/{name}{ratio_name(ratio)}": rank(_pooled(self.features("train", ratio, "in_order")))
            for ratio in config.token_ratios
            for name, rank in (("rankme", rankme), ("centred_rank", centred_rank))
        }
        ratio = max(config.token_ratios)
        for order in ORDERS:
            judged = self._judged("ridge", ratio, self.features("test", ratio, order))
            found[f"health/ridge_{order}"] = judged.accuracy.top1
        return found

    def spectra(self) -> dict[str, Tensor]:
        """Return the spectrum at each token ratio."""
        return {
            f"{100 * ratio:.0f} % of the tokens": spectrum(_pooled(self.features("train", ratio, "in_order")))
            for ratio in self._config.token_ratios
        }

    def _judged(self, task: Task, ratio: float, test: Features) -> ProbeResult:
        train = self.features("train", ratio, "in_order")
        self._check_trained(train)
        view_scores = _PROBES[task](self, train, test, ratio).cpu()
        labels = self._labels["test"]
        scores, counts = video_scores(view_scores, torch.from_numpy(test.video_idx), num_videos=len(labels))
        return ProbeResult(task, ratio, accuracy(scores, labels, seed=self._config.seed), scores.float(), counts)

    def _check_trained(self, train: Features) -> None:
        """Refuse to test a class all of whose training videos failed to decode."""
        left = set(self._labels["train"][torch.from_numpy(train.video_idx)].tolist())
        if lost := sorted(set(self._labels["test"].tolist()) - left):
            raise FeatureError(
                f"no training video of class {lost[0]} could be decoded ({len(train.failures)} of "
                f"{len(self._labels['train'])} failed; the first is {train.failures[0].path}: "
                f"{train.failures[0].reason}); index the videos again with --verify"
            )

    def knn(self, train: Features, test: Features, _: float) -> Tensor:
        """Nearest neighbours by mean features."""
        return knn_scores(*self._moved(_pooled(train), train, _pooled(test)), **self._asked(self._config.knn))

    def ridge(self, train: Features, test: Features, _: float) -> Tensor:
        """Ridge regression on the slots' means, of one view of each training video."""
        middle = np.arange(self._config.train_segments // 2, len(train.video_idx), self._config.train_segments)
        alone = Features(train.slots[middle], train.video_idx[middle], train.failures, train.num_held)
        rows = (torch.from_numpy(part.slots).flatten(1) for part in (alone, test))
        return ridge_scores(*self._moved(next(rows), alone, next(rows)), **self._asked(self._config.ridge))

    def linear(self, train: Features, test: Features, _: float) -> Tensor:
        """Linear probe on mean features."""
        data = (_pooled(train), self._labels_of(train), _pooled(test))
        return linear_scores(*data, **self._asked(self._config.linear), **self._trained())

    def attentive(self, train: Features, _: Features, ratio: float) -> Tensor:
        """Attentive probe on tokens, which are read for it alone."""
        tokens = {
            name: torch.from_numpy(read_tokens(plan, plan.reading(ratio, "in_order")))
            for name, plan in self._plans.items()
        }
        data = (tokens["train"], self._labels_of(train), tokens["test"])
        return attentive_scores(*data, **self._asked(self._config.attentive), **self._trained())

    def _labels_of(self, train: Features) -> Tensor:
        return self._labels["train"][torch.from_numpy(train.video_idx)]

    def _moved(self, rows: Tensor, train: Features, test: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return rows.to(self._device), self._labels_of(train).to(self._device), test.to(self._device)

    def _asked(self, config: object) -> dict:
        return {"num_classes": self._num_classes, "config": config}

    def _trained(self) -> dict:
        return {"seed": self._config.seed, "device": self._device}


_PROBES: dict[Task, Callable[[Probing, Features, Features, float], Tensor]] = {
    "knn": Probing.knn,
    "ridge": Probing.ridge,
    "linear": Probing.linear,
    "attentive": Probing.attentive,
}


def _pooled(features: Features) -> Tensor:
    """Average over all tokens, ``[views, dim]``; each time slot has equally many."""
    return torch.from_numpy(features.slots.mean(1))
