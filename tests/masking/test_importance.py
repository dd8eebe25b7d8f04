"""What ranks tokens: by hand, on a still clip, on a moving square, and backwards."""

import pytest
import torch
from torch import Tensor

from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid
from tats_ray.masking.embedding_distance import EmbeddingDistance, slot_distance
from tats_ray.masking.importance import Change, Importance
from tats_ray.masking.motion import frame_difference
from tats_ray.nn.patches import TubeletEmbed, patchify

GRID = TokenGrid(time=4, height=4, width=4)
PIXELS = 2 * 4 * 4 * 3
KINDS = ("frame-difference", "embedding-distance")


def importance(kind: str) -> Importance:
    torch.manual_seed(0)
    return (
        Change(grid=GRID, tubelet_size=2)
        if kind == "frame-difference"
        else EmbeddingDistance(TubeletEmbed(PIXELS, 16), grid=GRID)
    )


def ranked(kind: str, video: Tensor) -> Tensor:
    batch = ClipBatch(video, row=torch.arange(len(video)))
    return importance(kind)(batch, patchify(video, GRID))


def moving_square() -> Tensor:
    """A white square as large as a patch that moves by one patch every two frames, over grey."""
    video = torch.full((1, 8, 16, 16, 3), 100, dtype=torch.uint8)
    for slot in range(4):
        video[0, 2 * slot : 2 * slot + 2, 4:8, 4 * slot : 4 * slot + 4] = 255
    return video


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stands_out_of_a_still_clip(kind: str) -> None:
    video = torch.randint(0, 256, (2, 1, 16, 16, 3), dtype=torch.uint8).expand(-1, 8, -1, -1, -1)
    assert (ranked(kind, video) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_moves_stands_out(kind: str) -> None:
    rank = ranked(kind, moving_square())[0].view(4, 4, 4)
    for slot in range(1, 4):  # where the square is and where it was
        assert set(rank[slot].flatten().topk(2).indices.tolist()) == {4 + slot - 1, 4 + slot}
    assert (rank[:, [0, 2, 3]] == 0).all()
    assert not rank.requires_grad


def test_backwards_distances_move_by_one_slot() -> None:
    video = torch.randint(0, 256, (1, 8, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    video = video[:, ::2].repeat_interleave(2, dim=1)  # a slot's frames are equal, so that it reads the same backwards
    forth, back = (ranked("embedding-distance", clip).view(4, 16) for clip in (video, video.flip(1)))
    assert torch.allclose(back[1:], forth[1:].flip(0), rtol=1e-5)


def test_distances_by_hand() -> None:
    grid = TokenGrid(time=3, height=1, width=2)
    features = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [3.0, 4.0], [1.0, 1.0], [3.0, 5.0], [1.0, 3.0]]])
    assert slot_distance(features, grid).tolist() == [[5.0, 0.0, 5.0, 0.0, 1.0, 2.0]]  # the first slot has the second's


def test_frame_difference_is_that_of_the_clip() -> None:
    video = torch.randint(0, 256, (2, 8, 16, 16, 3), dtype=torch.uint8)
    assert torch.allclose(ranked("frame-difference", video), frame_difference(video, GRID))


def test_one_slot_has_no_distance() -> None:
    with pytest.raises(ValueError, match=r"compares time slots and needs two, got 1; raise data.num_frames"):
        EmbeddingDistance(lambda patches: patches, grid=TokenGrid(time=1, height=4, width=4))
