"""What every probe asks of its arguments, said in one voice: training rows, their labels, test rows."""

from typing import Literal

import torch
from torch import Tensor

RowKind = Literal["features", "tokens"]

_ARGUMENTS: dict[RowKind, tuple[str, str, str]] = {
    "features": ("train", "test", "[rows, features]"),
    "tokens": ("train_tokens", "test_tokens", "[rows, tokens, dim]"),
}


def check_split(train: Tensor, labels: Tensor, test: Tensor, *, num_classes: int, rows: RowKind = "features") -> None:
    """Refuse what no probe can learn from, or be scored on.

    Args:
        train: Floating ``[rows, features]``, or ``[rows, tokens, dim]`` for tokens.
        labels: Integers ``[rows]`` in [0, num_classes), of at least two classes.
        test: As ``train``, with the same last axis; the number of tokens may differ.
        num_classes: Classes that scores are wanted for.
        rows: What a row is, for the names in messages.

    Raises:
        ValueError: One of them is not so; the message names the argument.
    """
    train_name, test_name, shape = _ARGUMENTS[rows]
    for name, value in ((train_name, train), (test_name, test)):
        _check_rows(value, name=name, shape=shape)
    if train.shape[-1] != test.shape[-1]:
        raise ValueError(
            f"{test_name} must be as wide as {train_name}, got {test.shape[-1]} and {train.shape[-1]}; "
            "take both from the same encoder"
        )
    check_labels(labels, num_rows=len(train), num_classes=num_classes)
    if labels.min() == labels.max():
        raise ValueError(
            f"labels must hold at least two classes, got only class {int(labels[0])} in {len(labels)} rows; "
            "train on more videos"
        )


def check_labels(labels: Tensor, *, num_rows: int, num_classes: int) -> None:
    """Refuse labels that are no class numbers, one a row.

    Raises:
        ValueError: ``labels`` is not integers ``[num_rows]`` in [0, num_classes).
    """
    if labels.dtype.is_floating_point or labels.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != (num_rows,):
        raise ValueError(f"labels must have shape ({num_rows},), one for each row, got {tuple(labels.shape)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels must lie in [0, num_classes={num_classes}), got {low} to {high}; number the classes from 0"
        )


def check_features(features: Tensor, *, name: str = "features") -> None:
    """Refuse what is not a matrix of finite floating-point numbers with at least one row.

    Raises:
        ValueError: It is not; the message names the argument.
    """
    _check_rows(features, name=name, shape="[rows, features]")


def _check_rows(value: Tensor, *, name: str, shape: str) -> None:
    if value.ndim != shape.count(",") + 1 or not value.numel() or not value.dtype.is_floating_point:
        raise ValueError(f"{name} must be floating-point {shape} and not empty, got {value.dtype} {list(value.shape)}")
    bad = ~torch.isfinite(value).flatten(1).all(1)
    if bad.any():
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {int(bad.sum())} of {len(value)} rows, "
            f"the first of them row {int(bad.nonzero()[0])}; leave out videos that do not decode, "
            "and look for a diverged checkpoint or an overflow of float16"
        )
