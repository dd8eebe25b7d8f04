"""Probes that are trained on frozen features: a linear one on pooled features, an attentive one on tokens.

Several views of one video are several rows here; :mod:`tats_ray.evaluation.views` brings their scores together.
"""

from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from tats_ray.evaluation.fitting import FittingConfig, fit_head, seeded, softmax_scores
from tats_ray.evaluation.inputs import check_split
from tats_ray.evaluation.standardize import fit_standardizer
from tats_ray.nn.heads import AttentiveClassifier

_CHUNK_VALUES = 2**24  # feature values scored at once


class LinearConfig(FittingConfig):
    """How the linear probe is trained.

    The defaults are for some hundreds to some ten thousands of rows: the rate is high enough for the thousand steps
    that 600 rows make, which is where a rate of 1e-3 stops short. For larger sets, raise ``batch`` and lower
    ``epochs``: MAE takes 90 epochs of 16,384 rows a step for ImageNet.
    """


class AttentiveConfig(FittingConfig):
    """How the attentive probe is trained.

    V-JEPA trains 20 epochs on Kinetics-400 at a peak rate of 1e-3; a set of some hundred videos needs more passes to
    come to a useful number of steps.
    """

    epochs: int = Field(default=40, ge=1)
    """Passes over the training rows."""
    batch: int = Field(default=32, ge=1)
    """Rows of one step; the last of an epoch may have fewer."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak rate of AdamW; not scaled with the batch."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Of AdamW, applied to matrices alone: not to biases, norms and the query."""
    num_heads: int = Field(default=8, ge=1)
    """Attention heads; must divide the width of a token. Each looks for one direction among the tokens."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Hidden width of the MLP over the width of a token."""


def linear_scores(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    *,
    num_classes: int,
    config: LinearConfig,
    seed: int,
    device: torch.device | str | None = None,
) -> Tensor:
    """Train a linear classifier on features standardised by their training statistics, and score the test rows.

    Args:
        train: Floating ``[rows, features]``, such as the mean over a clip's tokens.
        labels: Integers ``[rows]`` in [0, num_classes), on the device of ``train``.
        test: Floating ``[test, features]``.
        num_classes: Classes to tell apart.
        config: How.
        seed: Of initial weights and order; on a CPU, the same seed gives the same numbers.
        device: Where to train; that of ``train`` when None.

    Returns:
        Softmax scores, float32 ``[test, classes]``, on the device of ``test``.

    Raises:
        ValueError: The tensors do not fit.
    """
    check_split(train, labels, test, num_classes=num_classes)
    head = seeded(partial(nn.Linear, train.shape[1], num_classes), seed=seed)
    return _trained_scores(head, train, labels, test, config=config, seed=seed, device=device)


def attentive_scores(
    train_tokens: Tensor,
    labels: Tensor,
    test_tokens: Tensor,
    *,
    num_classes: int,
    config: AttentiveConfig,
    seed: int,
    device: torch.device | str | None = None,
) -> Tensor:
    """Train an attentive classifier on standardised tokens, and score the test rows.

    Beyond V-JEPA's probe, each channel is standardised over all training tokens first, so that a channel of small scale
    can be used within few steps.

    Args:
        train_tokens: ``[rows, tokens, dim]``, float16 or wider; kept as they are, only batches become float32.
        labels: Integers ``[rows]`` in [0, num_classes), on the device of ``train_tokens``.
        test_tokens: ``[test, tokens, dim]``; the number of tokens may differ from that in training.
        num_classes: Classes to tell apart.
        config: How.
        seed: Of initial weights and order; on a CPU, the same seed gives the same numbers.
        device: Where to train; that of ``train_tokens`` when None.

    Returns:
        Softmax scores, float32 ``[test, classes]``, on the device of ``test_tokens``.

    Raises:
        ValueError: The tensors do not fit, or ``num_heads`` does not divide the width of a token.
    """
    check_split(train_tokens, labels, test_tokens, num_classes=num_classes, rows="tokens")
    build = partial(
        AttentiveClassifier,
        train_tokens.shape[-1],
        num_classes,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
    )
    head = seeded(build, seed=seed)
    return _trained_scores(head, train_tokens, labels, test_tokens, config=config, seed=seed, device=device)


def _trained_scores(
    head: nn.Module,
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    *,
    config: FittingConfig,
    seed: int,
    device: torch.device | str | None,
) -> Tensor:
    device = torch.device(train.device if device is None else device)
    head.to(device)
    if _has_room(train, device):
        train, labels = train.to(device), labels.to(device)  # once, instead of a batch in each step
    standardizer = fit_standardizer(train)
    fit_head(head, train, labels, standardizer=standardizer, config=config, seed=seed)
    chunk = max(1, _CHUNK_VALUES // test[0].numel())
    return softmax_scores(head, test, standardizer=standardizer, chunk=chunk)


def _has_room(rows: Tensor, device: torch.device) -> bool:
    """Whether a GPU holds these rows beside what trains on them."""
    return device.type == "cuda" and 2 * rows.nbytes < torch.cuda.mem_get_info(device)[0]
