"""What Prometheus finds where Ray says that it should look."""

import re
import time
import urllib.request
from types import SimpleNamespace

import pytest
import ray

from tats_ray.cluster.context import RayContext
from tats_ray.cluster.gauges import Gauges
from tats_ray.tracking.progress import ProgressState

SECONDS = 120
"""When to give up; Ray hands its figures on every ten seconds."""


@pytest.mark.ray
def test_a_run_is_found_where_ray_publishes_its_metrics() -> None:
    state = ProgressState(
        step=3,
        total_steps=8,
        loss=0.5,
        clips_per_second=12.5,
        wait_share=0.25,
        mfu=0.0,
        seconds=1.0,
        stage="policy",
        failed_clips=2,
    )
    context, written = RayContext.__new__(RayContext), list[ProgressState]()  # of no worker group
    context._gauges = Gauges("tiny-0001")
    context._board = SimpleNamespace(write=SimpleNamespace(remote=written.append))
    context.progress(state)
    assert written == [state]
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: dict[str, float] = {}
    until = time.monotonic() + SECONDS
    while len(found) < 5 and time.monotonic() < until:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            lines = re.findall(r'^ray_tats_(\w+)\{.*run="tiny-0001".*\} (\S+)', answer.read().decode(), re.MULTILINE)
        found = {name: float(value) for name, value in lines}
        time.sleep(0.5)
    assert found == {"step": 3, "loss": 0.5, "clips_per_second": 12.5, "wait_share": 0.25, "failed_clips": 2}
