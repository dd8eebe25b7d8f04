"""Prometheus itself reads our configuration, scrapes the head, and answers what the dashboard asks."""

import json
import shutil
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
NOT_HERE = ("gpus", "gram", "tats_", "ray_train", "eviction", "ray_tasks")
"""What only a machine with a GPU, a run, or an accident publishes."""
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="no Prometheus (Debian's package prometheus)"),
]


def test_it_scrapes_the_head_and_answers_the_dashboard(services: Any, serve: Any, wait: Any) -> None:
    config = services.folder / "prometheus.yaml"
    config.write_text(services.translate((DEPLOY / "monitoring" / "prometheus.yaml").read_text()))
    url = f"http://127.0.0.1:{services.ports['prometheus']}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={services.scratch / 'prometheus'}"]
    command += [f"--web.listen-address=127.0.0.1:{services.ports['prometheus']}"]

    def ask(path: str, **words: str) -> Any:
        with urllib.request.urlopen(f"{url}/{path}?{urllib.parse.urlencode(words)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def ready() -> bool:
        return urllib.request.urlopen(f"{url}/-/ready", timeout=10).status == 200

    with serve(command, log=services.folder / "prometheus.log", env={}, ready=ready):
        wait(
            lambda: [target["health"] for target in ask("api/v1/targets")["activeTargets"]] == ["up"] * 3,
            what="Prometheus has scraped the head's three ports",
        )
        panels = json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text())["panels"]
        asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
        for expression in asked:
            answer = ask("api/v1/query", query=expression)["result"]  # raises where Prometheus cannot parse it
            assert answer or any(part in expression for part in NOT_HERE), expression
