"""Tasks that need others: order, results, and what a failure takes along."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray

from tats_ray.cluster.tasks import Failed, Task, run_tasks

pytestmark = pytest.mark.ray


@ray.remote(num_cpus=0)
def work(name: str, given: list[str], log: Path) -> str:
    """Write that it began and ended, and return a name with those it was given."""
    with log.open("a") as file:
        file.write(f"+{name}\n")
    if name.startswith("bad"):
        raise ValueError(f"{name} cannot work")
    with log.open("a") as file:
        file.write(f"-{name}\n")
    return f"{name}({' '.join(given)})"


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., Task]:
    def make(name: str, *needs: str) -> Task:
        def start(done: Mapping[str, Any]) -> ray.ObjectRef:
            return work.remote(name, [done[need] for need in needs], tmp_path / "log")

        return Task(needs=needs, start=start)

    return make


def test_results_reach_those_that_need_them(task: Callable[..., Task]) -> None:
    tasks = {"c": task("c", "a", "b"), "a": task("a"), "b": task("b", "a")}
    assert run_tasks(tasks, at_once=4, what="test") == {"c": "c(a() b(a()))", "a": "a()", "b": "b(a())"}


def test_one_at_a_time(task: Callable[..., Task], tmp_path: Path) -> None:
    run_tasks({name: task(name) for name in "abc"}, at_once=1, what="test")
    assert (tmp_path / "log").read_text().split() == ["+a", "-a", "+b", "-b", "+c", "-c"]


def test_a_failure_takes_only_what_needs_it_along(task: Callable[..., Task], tmp_path: Path) -> None:
    tasks = {"bad": task("bad"), "on": task("on", "bad"), "further": task("further", "on"), "apart": task("apart")}
    done = run_tasks(tasks, at_once=2, what="test")
    assert done["apart"] == "apart()"
    assert done["bad"] == Failed("ValueError: bad cannot work")
    assert done["on"] == Failed("it needs bad, which failed: ValueError: bad cannot work")
    assert "+on" not in (tmp_path / "log").read_text()
    assert isinstance(done["further"], Failed)
