"""From the scores of views (segments x crops of a video) to the scores of videos."""

import torch
from torch import Tensor


def video_scores(view_scores: Tensor, video_idx: Tensor, *, num_videos: int) -> tuple[Tensor, Tensor]:
    """Average the scores of each video's views.

    Args:
        view_scores: Finite ``[rows, classes]``, a row for each view that was decoded, in any order.
        video_idx: Integers ``[rows]`` in [0, num_videos): whose view a row is.
        num_videos: All the videos that were asked for, decoded or not.

    Returns:
        Scores ``[videos, classes]``, at least float32, and the number of views each has, int64 ``[videos]``. A video
        without any view has NaN scores and 0 views: it stays in every denominator.

    Raises:
        ValueError: The tensors do not fit, or a score is not finite.

    Note:
        Sums are taken in float64, so that the order of rows moves a float32 result by its last bit at most.
    """
    _check(view_scores, video_idx, num_videos=num_videos)
    idx = video_idx.long()
    sums = torch.zeros(num_videos, view_scores.shape[1], dtype=torch.float64, device=view_scores.device)
    counts = torch.bincount(idx, minlength=num_videos)
    means = sums.index_add(0, idx, view_scores.double()) / counts[:, None]  # 0 / 0 is the wanted NaN
    return means.to(torch.promote_types(view_scores.dtype, torch.float32)), counts


def _check(view_scores: Tensor, video_idx: Tensor, *, num_videos: int) -> None:
    if view_scores.ndim != 2 or not view_scores.dtype.is_floating_point:
        raise ValueError(
            f"view_scores must be floating-point [rows, classes], got {view_scores.dtype} {list(view_scores.shape)}"
        )
    if not view_scores.isfinite().all():
        raise ValueError("view_scores must be finite; leave out the rows of views that do not decode")
    if video_idx.shape != (len(view_scores),) or video_idx.dtype.is_floating_point:
        raise ValueError(
            f"video_idx must be integers of shape ({len(view_scores)},), one for each row of view_scores, "
            f"got {video_idx.dtype} {list(video_idx.shape)}"
        )
    if not len(video_idx):
        return
    low, high = int(video_idx.min()), int(video_idx.max())
    if low < 0 or high >= num_videos:
        raise ValueError(f"video_idx must lie in [0, num_videos={num_videos}), got {low} to {high}")
