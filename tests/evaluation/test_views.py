"""Scores of several views against a plain average."""

import pytest
import torch

from tats_ray.evaluation.views import video_scores


def test_each_video_has_the_average_of_its_views() -> None:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(40, 7, generator=generator)
    video_idx = torch.randint(0, 9, (40,), generator=generator)
    video_idx[video_idx == 4] = 5  # one video without views
    scores, counts = video_scores(views, video_idx, num_videos=9)
    for video in range(9):
        own = [views[row] for row in range(40) if video_idx[row] == video]
        assert counts[video] == len(own)
        if own:
            torch.testing.assert_close(scores[video], torch.stack(own).mean(0))
        else:
            assert scores[video].isnan().all()
    assert int(counts[4]) == 0


def test_the_order_of_rows_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    views, video_idx = torch.randn(40, 7, generator=generator), torch.arange(40) // 8
    order = torch.randperm(40, generator=generator)
    scores, _ = video_scores(views, video_idx, num_videos=5)
    shuffled, _ = video_scores(views[order], video_idx[order], num_videos=5)
    torch.testing.assert_close(shuffled, scores, atol=0, rtol=2**-23)  # the last bit of float32


def test_no_view_at_all_leaves_every_video_without_scores() -> None:
    scores, counts = video_scores(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), num_videos=2)
    assert scores.isnan().all()
    assert counts.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("views", "video_idx", "message"),
    [
        (torch.zeros(3), torch.arange(3), r"view_scores must be floating-point \[rows, classes\]"),
        (torch.full((3, 2), torch.nan), torch.arange(3), "view_scores must be finite; leave out"),
        (torch.zeros(3, 2), torch.arange(4), r"video_idx must be integers of shape \(3,\).* \[4\]"),
        (torch.zeros(3, 2), torch.zeros(3), r"video_idx must be integers .* torch.float32"),
        (torch.zeros(3, 2), torch.arange(3) + 1, r"video_idx must lie in \[0, num_videos=3\), got 1 to 3"),
    ],
)
def test_bad_input_has_one_message(views: torch.Tensor, video_idx: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        video_scores(views, video_idx, num_videos=3)
