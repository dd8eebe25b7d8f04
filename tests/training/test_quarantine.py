"""The table of lost clips over workers, steps and lives of a run."""

import csv
from datetime import datetime
from pathlib import Path

import pytest
import torch

from tats_ray.training.context import LocalContext
from tats_ray.training.quarantine import DataLossError, Quarantine

CPU = torch.device("cpu")


class OneOfTwo(LocalContext):
    """One of two workers; what the other lost is given."""

    world_size = 2

    def __init__(self, rank: int, other: list[tuple[str, str]]) -> None:
        super().__init__(CPU)
        self.rank = rank
        self.other = other

    def all_gather(self, value: object) -> list[object]:
        return [value, self.other] if self.rank == 0 else [self.other, value]


def opened(
    path: Path, *, step: int = 0, on_error: str = "skip", share: float = 0.1, context: LocalContext | None = None
) -> Quarantine:
    context = context or LocalContext(CPU)
    return Quarantine(path, context, step=step, on_error=on_error, max_failed_share=share)  # type: ignore[arg-type]


def rows(path: Path) -> list[list[str]]:
    header, *found = csv.reader(path.read_text().splitlines())
    assert header == ["time", "step", "path", "reason"]
    assert all(datetime.fromisoformat(row[0]).tzinfo for row in found)
    return [row[1:] for row in found]


def test_nothing_lost_makes_no_table(tmp_path: Path) -> None:
    table = opened(tmp_path / "q.csv")
    assert table.add([], step=1) == 0
    assert not table.has_news()
    assert not list(tmp_path.iterdir())


def test_all_workers_losses_are_one_table_that_rank_0_writes(tmp_path: Path) -> None:
    mine, other = [("a.mp4", "torn"), ("b, c.mp4", 'says "no"')], [("d.mp4", "empty")]
    first = opened(tmp_path / "0.csv", context=OneOfTwo(0, other))
    second = opened(tmp_path / "1.csv", context=OneOfTwo(1, mine))
    assert first.add(mine, step=7) == second.add(other, step=7) == 3
    assert rows(tmp_path / "0.csv") == [["7", "a.mp4", "torn"], ["7", "b, c.mp4", 'says "no"'], ["7", "d.mp4", "empty"]]
    assert not (tmp_path / "1.csv").exists()
    assert (first.has_news(), first.has_news(), second.has_news()) == (True, False, False)


def test_a_resumed_run_lists_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    before = opened(path)
    before.add([("held.mp4", "torn")], step=0)
    for step in (1, 4, 5, 6):
        before.add([(f"{step}.mp4", "torn")], step=step)
    with path.open("a") as file:
        file.write("2026-11-21T15:32:07+00:00,6,hal")  # the process was killed here
    after = opened(path, step=4)  # from the checkpoint of step 4: 5 and 6 come again
    after.add([("held.mp4", "torn")], step=0)
    assert not after.has_news()
    for step in (5, 6):
        after.add([(f"{step}.mp4", "torn")], step=step)
    assert [step for step, *_ in rows(path)] == ["0", "1", "4", "5", "6"]
    assert after.has_news()
    assert [file.name for file in tmp_path.iterdir()] == ["q.csv"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_that_may_lose_none_ends_at_the_first_on_all_workers(tmp_path: Path, rank: int) -> None:
    lost = [("a.mp4", "torn")]
    own, other = (lost, []) if rank == 0 else ([], lost)
    table = opened(tmp_path / "q.csv", on_error="fail", context=OneOfTwo(rank, other))
    with pytest.raises(DataLossError, match=r"a\.mp4 could not be decoded: torn; data\.on_error=fail .*on_error=skip"):
        table.add(own, step=3)
    assert (tmp_path / "q.csv").exists() == (rank == 0)


def test_the_share_is_of_at_least_a_thousand_clips(tmp_path: Path) -> None:
    table = opened(tmp_path / "q.csv", share=0.1)
    table.check(100, clips=8)
    table.check(200, clips=2000)
    with pytest.raises(DataLossError, match=r"101 of 8 clips .*data\.max_failed_share=0\.1 .*q\.csv: index"):
        table.check(101, clips=8)
    with pytest.raises(DataLossError, match=r"201 of 2000 clips"):
        table.check(201, clips=2000)
