"""Tasks that need others: run in their order, as many at once as wanted; what fails takes only what needs it along."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import RayError
from rich.console import Console
from rich.progress import Progress

from tats_ray.cluster.recorder import last_line

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Failed:
    """Why there is no result."""

    reason: str


@dataclass(frozen=True)
class Task:
    """Something to do once others are done."""

    needs: tuple[str, ...]
    """Names of the tasks whose results it needs."""
    start: Callable[[Mapping[str, Any]], ObjectRef]
    """Given the results so far, starts it."""


def run_tasks(tasks: Mapping[str, Task], *, at_once: int, what: str) -> dict[str, Any]:
    """Return every task's result, or ``Failed``, by name; a bar called ``what`` counts them."""
    waiting, running, done = dict(tasks), dict[ObjectRef, str](), dict[str, Any]()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=len(tasks))
        while waiting or running:
            for name, task in list(waiting.items()):
                lost = next((need for need in task.needs if isinstance(done.get(need), Failed)), None)
                if lost is not None:
                    done[name] = Failed(f"it needs {lost}, which failed: {done[lost].reason}")
                    del waiting[name]
                elif len(running) < at_once and all(need in done for need in task.needs):
                    running[task.start(done)] = name
                    del waiting[name]
            ready, _ = ray.wait(list(running), timeout=POLL_SECONDS) if running else ([], [])
            for ref in ready:
                done[running.pop(ref)] = _result(ref)
            progress.update(bar, completed=len(done))
    return {name: done[name] for name in tasks}


def _result(ref: ObjectRef) -> Any:
    try:
        return ray.get(ref)
    except RayError as error:
        return Failed(last_line(error))
