"""Laws of the order of a run: every sample once an epoch, whatever the number of workers."""

from collections import Counter

import numpy as np
import pytest

from tats_ray.data.order import (
    Part,
    epoch_length,
    epoch_order,
    epoch_permutation,
    samples_at,
    share_positions,
    split_held_out,
)


def one(num_videos: int) -> tuple[Part, ...]:
    return (Part("a.parquet", num_videos),)


def test_every_sample_comes_once_an_epoch() -> None:
    order = samples_at(np.arange(30), parts=one(10), seed=0).reshape(3, 10)
    assert (np.sort(order, axis=1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in order}) == 3


def test_the_order_is_a_function_of_seed_and_position() -> None:
    whole = samples_at(np.arange(50), parts=one(7), seed=3)
    some = np.array([44, 3, 21, 20, 6, 7])
    assert (samples_at(some, parts=one(7), seed=3) == whole[some]).all()
    assert (samples_at(np.arange(50), parts=one(7), seed=4) != whole).any()
    assert (epoch_permutation(7, seed=3, epoch=1) == whole[7:14]).all()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_shares_of_a_step_make_up_its_positions(world_size: int) -> None:
    shares = [
        share_positions(range(5, 8), global_batch=8, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    by_step = np.concatenate([share.reshape(3, -1) for share in shares], axis=1)
    assert (by_step == np.arange(40, 64).reshape(3, 8)).all()


def test_a_resumed_run_goes_on_where_it_stopped() -> None:
    whole = share_positions(range(6), global_batch=8, rank=1, world_size=2)
    parts = [share_positions(steps, global_batch=8, rank=1, world_size=2) for steps in (range(2), range(2, 6))]
    assert (np.concatenate(parts) == whole).all()


def test_a_batch_that_workers_do_not_divide_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"training\.global_batch must be a multiple of cluster\.num_workers, got 8 and 3"
    ):
        share_positions(range(1), global_batch=8, rank=0, world_size=3)


@pytest.mark.parametrize(("samples", "asked", "given"), [(100, 10, 10), (100, 64, 20), (3, 64, 1), (2, 1, 1)])
def test_held_out_samples_are_apart(samples: int, asked: int, given: int) -> None:
    train, held_out = split_held_out(samples, held_out=asked, seed=0)
    assert len(held_out) == given
    assert sorted([*train, *held_out]) == list(range(samples))
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()
    again = split_held_out(samples, held_out=asked, seed=0)
    assert (again[1] == held_out).all()


def test_one_video_is_too_few() -> None:
    with pytest.raises(ValueError, match="at least 2 videos, one of them held out, got 1"):
        split_held_out(1, held_out=1, seed=0)


def test_one_manifest_of_weight_1_is_ordered_by_the_permutation_of_its_epoch() -> None:
    for num_videos, seed, epoch in ((1, 0, 0), (7, 3, 0), (50, 1, 4)):
        order = epoch_order(one(num_videos), seed=seed, epoch=epoch)
        assert (order == epoch_permutation(num_videos, seed=seed, epoch=epoch)).all()
        assert (order == np.random.default_rng([seed, 0, epoch]).permutation(num_videos)).all()


MIXED = (Part("a", 4, 2.0), Part("b", 6, 0.5), Part("c", 3, 1.0), Part("d", 3, 1.5))


def test_a_weight_is_how_often_each_video_comes() -> None:
    assert epoch_length(MIXED) == 8 + 3 + 3 + 4  # halves go to the even number: 4.5 places are 4
    epochs = samples_at(np.arange(6 * 18), parts=MIXED, seed=5).reshape(6, 18)
    counts = [Counter(epoch.tolist()) for epoch in epochs]
    for count in counts:
        assert [count[row] for row in (0, 1, 2, 3, 10, 11, 12)] == [2, 2, 2, 2, 1, 1, 1]
        assert sum(count[row] for row in range(4, 10)) == 3
        assert sorted(count[row] for row in range(13, 16)) == [1, 1, 2]
    for pair in zip(counts[::2], counts[1::2], strict=True):  # every second epoch: once in any two
        assert [pair[0][row] + pair[1][row] for row in range(4, 10)] == [1] * 6
    assert [sum(count[row] for count in counts[:3]) for row in (13, 14, 15)] == [4, 4, 4]
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert len({frozenset(epoch.tolist()) & frozenset(range(4, 10)) for epoch in epochs[::2]}) > 1  # drawn anew


def test_a_mixed_order_is_a_function_of_seed_and_position() -> None:
    whole = samples_at(np.arange(90), parts=MIXED, seed=5)
    some = np.array([80, 3, 17, 18, 19, 0])
    assert (samples_at(some, parts=MIXED, seed=5) == whole[some]).all()
    assert (samples_at(np.arange(90), parts=MIXED, seed=6) != whole).any()
    assert len(samples_at(np.arange(0), parts=MIXED, seed=5)) == 0


def test_a_manifest_without_a_place_in_an_epoch_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"data\.manifest: b has 3 videos to train on at weight 0\.1, .*greater weight"
    ):
        epoch_length((Part("a", 4), Part("b", 3, 0.1)))
