"""The ledger on a clock that the test turns: every second is booked once, under the innermost span."""

from collections.abc import Sequence

import pytest
import torch

from tats_ray.training import ledger as module
from tats_ray.training.ledger import PARTS, CudaClock, HostClock, Ledger, clock_of, matmul_flops


class Hand:
    """A clock that goes when it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def booked(seconds: dict) -> dict:
    return {part: value for part, value in seconds.items() if value}


def walk(ledger: Ledger, hand: Hand) -> None:
    """1 other, 2 wait, 4 + 16 autoencoder around 8 sampler, of which 32 optimizer, 64 other."""
    hand.wait(1)
    with ledger.span("wait"):
        hand.wait(2)
    with ledger.span("autoencoder"):
        hand.wait(4)
        with ledger.span("sampler"):
            hand.wait(8)
            with ledger.span("optimizer"):
                hand.wait(32)
        hand.wait(16)
    hand.wait(64)


WALKED = {"other": 65, "wait": 2, "autoencoder": 20, "sampler": 8, "optimizer": 32}


def test_nested_spans_share_the_time_without_overlap() -> None:
    hand = Hand()
    ledger = Ledger(HostClock(hand))
    ledger.start({})
    walk(ledger, hand)
    seconds = ledger.read()
    assert booked(seconds) == WALKED
    assert set(seconds) == set(PARTS)
    assert sum(seconds.values()) == 127
    assert booked(ledger.read()) == {}


def test_a_reading_inside_a_span_cuts_it_in_two() -> None:
    hand = Hand()
    ledger = Ledger(HostClock(hand))
    ledger.start({})
    with ledger.span("logging"):
        hand.wait(3)
        assert booked(ledger.read()) == {"logging": 3}
        hand.wait(4)
    hand.wait(5)
    assert booked(ledger.read()) == {"logging": 4, "other": 5}


def test_totals_go_on_where_an_earlier_life_stopped() -> None:
    hand = Hand()
    totals = {"wait": 1000.0}
    ledger = Ledger(HostClock(hand))
    hand.wait(7)  # before the start: not of the run
    ledger.start(totals)
    walk(ledger, hand)
    ledger.settle()
    assert booked(totals) == {**WALKED, "wait": 1002}
    assert booked(ledger.read()) == WALKED  # the reading is of this life


def test_an_exception_closes_its_spans() -> None:
    hand = Hand()
    ledger = Ledger(HostClock(hand))
    ledger.start({})
    with pytest.raises(KeyError), ledger.span("autoencoder"), ledger.span("sampler"):
        raise KeyError
    hand.wait(1)
    assert booked(ledger.read()) == {"other": 1}


def test_nothing_is_kept_before_the_start() -> None:
    class Never(HostClock):
        def __init__(self) -> None:
            super().__init__(lambda: pytest.fail("the clock was asked"))

    ledger = Ledger(Never())
    with ledger.span("wait"), ledger.span("optimizer"):
        pass


def test_matrix_products_are_counted_as_two_operations_for_each_of_their_terms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(HostClock):
        def between(self, moments: Sequence[float]) -> list[float]:
            return [4.0, 2.0, 8.0]

    monkeypatch.setattr(module, "clock_of", lambda device: Slow())
    assert matmul_flops(torch.device("cpu"), torch.float32) == 2 * 512**3 / 2.0


def test_the_yardstick_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert matmul_flops(torch.device("cpu"), torch.bfloat16) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_cpu_is_timed_by_the_host() -> None:
    assert isinstance(clock_of(torch.device("cpu")), HostClock)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_are_booked_under_the_span_that_started_them() -> None:
    """The spans close long before the kernels end; what is measured is the kernels."""
    device = torch.device("cuda")
    assert isinstance(clock_of(device), CudaClock)
    matrix = torch.ones(4096, 4096, device=device)
    matrix @ matrix
    torch.cuda.synchronize()
    ledger = Ledger(clock_of(device))
    ledger.start({})
    with ledger.span("autoencoder"):
        for _ in range(50):
            matrix @ matrix
    with ledger.span("wait"):
        pass
    seconds = ledger.read()
    assert seconds["autoencoder"] > 100 * seconds["wait"]
