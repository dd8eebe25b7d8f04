"""k nearest neighbours by cosine similarity, weighted votes: no training, so it shows the features as they are.

Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (arXiv 1805.01978), section
3.4: a neighbour of similarity s votes for its class with weight ``exp(s / temperature)``.
"""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from tats_ray.evaluation.inputs import check_split

_CHUNK_VALUES = 2**24  # similarities held at once


class KNNConfig(BaseModel):
    """How neighbours vote."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    neighbors: int = Field(default=20, ge=1)
    """Neighbours that vote; at most as many as there are training rows. Wu et al. take 200 of a million."""
    temperature: float = Field(default=0.07, gt=0)
    """Of the weights, in units of cosine similarity: lower trusts the nearest more."""


def knn_scores(train: Tensor, labels: Tensor, test: Tensor, *, num_classes: int, config: KNNConfig) -> Tensor:
    """Return each test row's share of votes by class, ``[test, classes]`` float32; rows sum to 1.

    Args:
        train: Floating ``[rows, features]``. A row of zeros has similarity 0 to everything.
        labels: Integers ``[rows]`` in [0, num_classes).
        test: Floating ``[test, features]``, on the same device.
        num_classes: Columns of the result; a class without training rows gets 0.
        config: How neighbours vote.

    Raises:
        ValueError: The tensors do not fit, or there are fewer training rows than neighbours.
    """
    check_split(train, labels, test, num_classes=num_classes)
    if config.neighbors > len(train):
        raise ValueError(
            f"neighbors must be at most the {len(train)} training rows, got {config.neighbors}; "
            f"set it to {len(train)} or less, or train on more videos"
        )
    known = F.normalize(train.float(), dim=1)
    scores = torch.zeros(len(test), num_classes, device=test.device)
    chunk = max(1, _CHUNK_VALUES // len(train))
    for asked, part in zip(test.split(chunk), scores.split(chunk), strict=True):
        similarity, neighbor_idx = (F.normalize(asked.float(), dim=1) @ known.T).topk(config.neighbors, dim=1)
        weight = (similarity / config.temperature).softmax(dim=1)  # exp in shares, without its overflow
        part.scatter_add_(1, labels.long()[neighbor_idx], weight)
    return scores
