"""Whether features use the room they have: their effective rank, and the spectrum behind it. No labels are needed."""

import torch
from torch import Tensor

from tats_ray.evaluation.inputs import check_features

_EPSILON = 1e-7  # the paper's, for float32 features
_ROUNDING = 1e-12  # what is left of equal rows when their mean is taken away, relative


def rankme(features: Tensor) -> float:
    """Return RankMe, the effective rank of features as they are, not centred.

    ``exp(-sum_k p_k log p_k)`` with ``p_k = s_k / sum_j s_j + 1e-7`` over the singular values s (Garrido et al. 2023,
    arXiv 2210.02885, equations 1 and 2). From 1 (all rows on one line through the origin) to min(rows, features), up to
    the epsilon. Compare only what was taken from equally many rows.

    Args:
        features: Floating ``[rows, features]``.

    Raises:
        ValueError: ``features`` is no finite matrix, or all zero.
    """
    check_features(features)
    values = torch.linalg.svdvals(features.double())
    if not values.any():
        raise ValueError("features must have a spectrum, but all are zero; the encoder is dead")
    share = values / values.sum() + _EPSILON
    return float(torch.exp(-(share * share.log()).sum()))


def centred_rank(features: Tensor) -> float:
    """Return the effective rank of features whose mean is taken away: along how many directions they differ.

    RankMe's formula on centred features. Means over a clip's tokens share a large part, since every clip has the same
    positions; RankMe measures that part above all, and falls while features spread.

    Args:
        features: Floating ``[rows, features]``.

    Returns:
        From 1 to min(rows, features), up to the epsilon; 0 if all rows are equal.

    Raises:
        ValueError: ``features`` is no finite matrix.
    """
    check_features(features)
    wide = features.double()
    centred = wide - wide.mean(0)
    if torch.linalg.vector_norm(centred) <= _ROUNDING * torch.linalg.vector_norm(wide):
        return 0.0
    return rankme(centred)


def spectrum(features: Tensor) -> Tensor:
    """Return the singular values of centred features, largest first, as shares that sum to 1.

    Args:
        features: Floating ``[rows, features]``. Their mean is taken away: it would hide behind one large value how the
            rows differ.

    Returns:
        float64 ``[min(rows, features)]``.

    Raises:
        ValueError: ``features`` is no finite matrix, or all its rows are equal.
    """
    check_features(features)
    wide = features.double()
    values = torch.linalg.svdvals(wide - wide.mean(0))
    if values[0] <= _ROUNDING * torch.linalg.vector_norm(wide):
        raise ValueError("features must have a spectrum, but all rows are equal; the encoder has collapsed")
    return values / values.sum()
