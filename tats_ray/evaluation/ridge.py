"""Ridge regression to class indicators in closed form: the probe by which runs are ranked.

One eigendecomposition gives every penalty's leave-one-out residuals, so nothing is trained, nothing is drawn, and no
validation split is spent. With ``H`` the hat matrix of a penalty, intercept included, the residual of row i under a
model that has not seen it is ``(y_i - (H y)_i) / (1 - H_ii)`` (Allen 1974, "The relationship between variable selection
and data augmentation and a method for prediction"). That is exact, not an approximation; only the scale of the features
is taken from all rows.
"""

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from tats_ray.evaluation.inputs import check_features, check_labels, check_split
from tats_ray.evaluation.standardize import Standardizer, fit_standardizer


class RidgeConfig(BaseModel):
    """Which penalties are tried."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    penalties: tuple[float, ...] = Field(default=tuple(10.0 ** (half / 2) for half in range(-8, 7)), min_length=1)
    """In units of the mean non-zero eigenvalue of the Gram matrix of the standardised features, so that one grid serves
    any number of rows and features: 1 halves the weight of a direction of average variance. 1e-4 to 1e3 by half
    decades."""

    @field_validator("penalties")
    @classmethod
    def _positive(cls, penalties: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < penalty < float("inf") for penalty in penalties):
            raise ValueError(f"penalties must be positive and finite, got {penalties}; try 1e-4 for almost none")
        return penalties


@dataclass(frozen=True)
class Ridge:
    """A fitted ridge regression, float64."""

    standardizer: Standardizer
    weight: Tensor  # [features, classes], for standardised features
    bias: Tensor  # [classes]: the share of each class in training
    penalty: float  # the chosen one, absolute: added to the Gram matrix of the standardised features
    errors: Tensor  # [penalties]: leave-one-out squared error by penalty, mean over rows, sum over classes

    def scores(self, test: Tensor) -> Tensor:
        """Return the regression's values for ``[test, features]``: ``[test, classes]``, near 1 for a sure class."""
        return self.standardizer(test, dtype=torch.float64) @ self.weight + self.bias


@dataclass(frozen=True)
class _Decomposition:
    """The hat matrix of penalty p, without the intercept, is ``basis diag(1 / (eigenvalues + p)) basis^T``."""

    basis: Tensor  # [rows, rank]
    eigenvalues: Tensor  # [rank], at least 0
    directions: Tensor  # [features, rank]: the weights are directions diag(1 / (eigenvalues + p)) basis^T y


def ridge_scores(train: Tensor, labels: Tensor, test: Tensor, *, num_classes: int, config: RidgeConfig) -> Tensor:
    """Fit :func:`fit_ridge` and score the test rows.

    Args:
        train: Floating ``[rows, features]``.
        labels: Integers ``[rows]`` in [0, num_classes).
        test: Floating ``[test, features]``, on the same device.
        num_classes: Columns of the result; a class without training rows gets 0 everywhere.
        config: Which penalties are tried.

    Returns:
        float64 ``[test, classes]``: estimates of the class indicators, which sum to 1 and may lie outside [0, 1].

    Raises:
        ValueError: The tensors do not fit.
    """
    check_split(train, labels, test, num_classes=num_classes)
    return fit_ridge(train, labels, num_classes=num_classes, config=config).scores(test)


def fit_ridge(train: Tensor, labels: Tensor, *, num_classes: int, config: RidgeConfig) -> Ridge:
    """Regress centred one-hot labels on standardised features, with the penalty of least leave-one-out squared error.

    One penalty serves all classes. It is chosen by squared error and not by accuracy, which is a step function of the
    penalty: on few videos its maximum jumps about, and with it the result.

    Args:
        train: Floating ``[rows, features]``. Features that are constant do not count. Rows are taken for independent:
            with several views of one video the penalty comes out too small, so take one view a video here.
        labels: Integers ``[rows]`` in [0, num_classes).
        num_classes: Columns of the targets.
        config: Which penalties are tried; of equal ones the first wins.

    Note:
        The cost is one eigendecomposition of size min(rows, features), and for each penalty one product
        ``[rows, rank] x [rank, classes]``, all in float64.
    """
    check_features(train, name="train")
    check_labels(labels, num_rows=len(train), num_classes=num_classes)
    standardizer = fit_standardizer(train)
    features = standardizer(train, dtype=torch.float64)
    indicators = F.one_hot(labels.long(), num_classes).double()
    bias = indicators.mean(0)
    centred = indicators - bias
    parts = _decompose(features)
    penalties = _mean_eigenvalue(features) * torch.tensor(config.penalties, dtype=torch.float64)
    projected = parts.basis.T @ centred
    errors = torch.stack([_left_out_error(parts, centred, projected, penalty=float(p)) for p in penalties])
    penalty = float(penalties[errors.argmin()])
    weight = parts.directions @ (projected / (parts.eigenvalues + penalty)[:, None])
    return Ridge(standardizer=standardizer, weight=weight, bias=bias, penalty=penalty, errors=errors)


def _decompose(features: Tensor) -> _Decomposition:
    """Decompose the smaller of the two Gram matrices."""
    num_rows, num_features = features.shape
    if num_features <= num_rows:
        eigenvalues, vectors = torch.linalg.eigh(features.T @ features)
        return _Decomposition(features @ vectors, eigenvalues.clamp(min=0), vectors)
    eigenvalues, vectors = torch.linalg.eigh(features @ features.T)
    eigenvalues = eigenvalues.clamp(min=0)  # rounding leaves some a little below
    root = eigenvalues.sqrt()
    # Directions of a root of zero carry nothing; dividing by it would.
    inverse = torch.where(root > 0, 1 / root, 0.0)
    return _Decomposition(vectors * root, eigenvalues, features.T @ (vectors * inverse))


def _mean_eigenvalue(features: Tensor) -> float:
    """Return the mean of the eigenvalues that can differ from 0; 1 when no feature varies."""
    varying = int(features.any(dim=0).sum())
    rank = min(len(features) - 1, varying)  # centring takes one row's worth away
    return float(features.square().sum()) / rank if varying else 1.0


def _left_out_error(parts: _Decomposition, centred: Tensor, projected: Tensor, *, penalty: float) -> Tensor:
    shrink = 1 / (parts.eigenvalues + penalty)
    fitted = parts.basis @ (shrink[:, None] * projected)
    leverage = parts.basis.square() @ shrink + 1 / len(centred)  # the intercept's share is 1 / rows
    return ((centred - fitted) / (1 - leverage)[:, None]).square().sum(1).mean()
