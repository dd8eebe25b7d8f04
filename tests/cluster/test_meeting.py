"""A training in a thread that stops at every report until it is told to go on or to leave."""

from collections.abc import Callable

import pytest

from tats_ray.cluster.meeting import Left, Meeting, Report


class Steps:
    """Reports each of three steps; notes how far it came and how it ended."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.left = False

    def work(self, report: Callable[[Report], None]) -> Report:
        try:
            for step in range(3):
                self.begun.append(step)
                report({"step": step})
        except Left:
            self.left = True
            raise
        return {"done": True}


def test_it_goes_no_further_than_its_next_report() -> None:
    steps = Steps()
    meeting = Meeting(steps.work)
    assert steps.begun == []
    assert meeting.advance() == {"step": 0}
    assert steps.begun == [0]
    assert [meeting.advance() for _ in range(3)] == [{"step": 1}, {"step": 2}, {"done": True}]
    meeting.leave()  # it has gone
    assert not steps.left


def test_told_to_leave_it_leaves_where_it_waits() -> None:
    steps = Steps()
    meeting = Meeting(steps.work)
    meeting.advance()
    meeting.leave()
    assert (steps.begun, steps.left) == ([0], True)


def test_leaving_before_the_start_starts_nothing() -> None:
    steps = Steps()
    Meeting(steps.work).leave()
    assert steps.begun == []


def test_what_it_raises_is_raised_where_somebody_waits() -> None:
    def fail(report: Callable[[Report], None]) -> Report:
        report({"step": 0})
        raise OSError("the disk is full")

    meeting = Meeting(fail)
    meeting.advance()
    with pytest.raises(OSError, match="the disk is full"):
        meeting.advance()
