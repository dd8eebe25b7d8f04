"""What a sweep writes down comes back as it was."""

import math
from pathlib import Path

from tats_ray.sweeping.journal import Journal, Options, Plan, Planned, Segment
from tats_ray.sweeping.trials import Trial

PLAN = Plan(
    name="rates-0001",
    options=Options(search="tpe", scheduler="asha", trials=3, seeds=(0, 4), rank_at="flops"),
    domains={"optim.base_learning_rate": "(0.01, 0.1)"},
    judged_by="min validation/random_mask_error",
    base={"name": "tiny"},
    starts={"0": "/warm", "4": None},
    trials=[Planned("000-s0", {"optim.base_learning_rate": 0.05}, 0)],
)


def test_a_plan_comes_back(tmp_path: Path) -> None:
    Journal(tmp_path).write_plan(PLAN)
    assert Journal(tmp_path).read_plan() == PLAN


def test_endings_come_back_and_are_replaced(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    lost = Trial("000", {"a": 1}, 0, status="failed", reason="lost", metrics={"loss": math.nan})
    journal.end(lost)
    found = journal.ended()["000"]
    assert (found.reason, found.knobs) == ("lost", {"a": 1})
    assert math.isnan(found.metrics["loss"])
    journal.end(Trial("000", {"a": 1}, 0, status="finished"))
    assert journal.ended()["000"].status == "finished"


def test_a_resumed_sweep_tries_again_what_failed_and_nothing_else(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    statuses = ("finished", "stopped", "failed", "interrupted", "pruned", "refused")
    for status in statuses:
        journal.end(Trial(status, {}, 0, status=status))
    assert journal.ended().keys() == set(statuses)
    assert journal.settled().keys() == {"finished", "stopped", "pruned", "refused"}


def test_segments_come_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.segments("000") == []
    first, second = Segment("001", 40, {"a": 1}, "/one"), Segment("002", 80, {"a": 2}, "/two")
    journal.add_segment("000", first)
    journal.add_segment("000", second)
    assert journal.segments("000") == [first, second]
