"""What a pod does before it is ended. With a real cluster: tests/services."""

import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest


@pytest.fixture
def pre_stop(deploy: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    found = runpy.run_path(str(deploy / "pre_stop.py"))
    monkeypatch.setattr(found["time"], "sleep", lambda seconds: None)
    return SimpleNamespace(**found)


def write_process(proc: Path, pid: int, title: str) -> None:
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "cmdline").write_bytes(title.encode() + b"\0" * 9)


def test_a_worker_waits_for_tasks_and_actors_but_not_for_idle_processes(
    pre_stop: SimpleNamespace, tmp_path: Path
) -> None:
    pre_stop.main.__globals__["PROC"] = tmp_path
    write_process(tmp_path, 1, "ray start --address=x")
    write_process(tmp_path, 2, "ray::IDLE")
    (tmp_path / "self").mkdir()
    (tmp_path / "3").mkdir()  # ended before it was read
    assert pre_stop.main(["worker", "--seconds", "0"]) == 0
    write_process(tmp_path, 4, "ray::_RayTrainWorker__execute.get_next")
    assert pre_stop.main(["worker", "--seconds", "0"]) == 1


class Client:
    """A job server with one job that runs, one that has ended, and a driver that is no submitted job."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.stopped: list[str] = []
        self.asked = 0
        Client.last = self

    def list_jobs(self) -> list[SimpleNamespace]:
        self.asked += 1
        ended = self.asked > 3
        return [
            SimpleNamespace(submission_id="a", status=SimpleNamespace(is_terminal=lambda: ended)),
            SimpleNamespace(submission_id="b", status=SimpleNamespace(is_terminal=lambda: True)),
            SimpleNamespace(submission_id=None, status=SimpleNamespace(is_terminal=lambda: False)),
        ]

    def stop_job(self, job: str) -> None:
        self.stopped.append(job)


def test_the_head_stops_what_runs_and_waits_for_its_end(
    pre_stop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("ray.job_submission")
    module.JobSubmissionClient = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray.job_submission", module)
    assert pre_stop.main(["head", "--address", "http://here"]) == 0
    assert Client.last.address == "http://here"
    assert Client.last.stopped == ["a"]
    assert Client.last.asked == 4
