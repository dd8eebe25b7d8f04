"""What a pod does before it is ended: python deploy/pre_stop.py {head,worker}; standard library and Ray only.

Kubernetes ends all pods of a cluster at once. The head stops its jobs and waits for them: each writes a checkpoint and
ends its run as KILLED. A worker meanwhile stays until nothing of a job runs on it, so that there is someone to write.
Both give up in time for the pod's own grace period, and whatever they do the pod ends.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROC = Path("/proc")
ADDRESS = "http://127.0.0.1:8265"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 1 where time was up before all was quiet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("head", "worker"))
    parser.add_argument("--seconds", type=float, default=100.0, help="give up after as many (default: %(default)g)")
    parser.add_argument("--address", default=ADDRESS, help="the head's job server (default: %(default)s)")
    parsed = parser.parse_args(arguments)
    until = time.monotonic() + parsed.seconds
    busy = stop_jobs(parsed.address) if parsed.kind == "head" else working
    while busy():
        if time.monotonic() > until:
            return 1
        time.sleep(1.0)
    return 0


def stop_jobs(address: str) -> Callable[[], bool]:
    """Ask all running jobs to stop; return what says whether one still runs."""
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(address)

    def running() -> list[str]:
        jobs = client.list_jobs()
        return [job.submission_id for job in jobs if job.submission_id and not job.status.is_terminal()]

    for job in running():
        client.stop_job(job)
    return lambda: bool(running())


def working() -> bool:
    """Whether a process of this pod runs a task or an actor; Ray puts that into the process's title."""
    return any(title.startswith("ray::") and not title.startswith("ray::IDLE") for title in _titles())


def _titles() -> Iterator[str]:
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                yield (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:  # it has ended
                continue


if __name__ == "__main__":
    sys.exit(main())
