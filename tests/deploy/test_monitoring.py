"""Prometheus and Grafana: what is scraped is published, what is drawn is measured."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from tats_ray.cluster.gauges import GAUGES

OWN = re.compile(r"\bray_(tats_\w+)")
RAYS = re.compile(r"\b(ray_(?!tats_)\w+)")


@pytest.fixture(scope="module")
def panels(deploy: Path) -> list[dict[str, Any]]:
    dashboard = json.loads((deploy / "monitoring" / "dashboard.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def expressions(panels: list[dict[str, Any]]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_all_our_gauges_are_drawn_and_no_others(expressions: list[str]) -> None:
    drawn = {name for one in expressions for name in OWN.findall(one)}
    assert drawn == {f"tats_{name}" for name in GAUGES}


def test_rays_metrics_are_ones_that_ray_has(expressions: list[str]) -> None:
    known = "".join(
        path.read_text()
        for path in (Path(ray.__file__).parent / "dashboard/modules/metrics/dashboards").glob("*_panels.py")
    )
    for name in {name for one in expressions for name in RAYS.findall(one)} - {"ray_train_run_name"}:
        assert re.search(rf"\b{name}\b", known), name


def test_panels_do_not_overlap_and_have_numbers_of_their_own(deploy: Path) -> None:
    panels = json.loads((deploy / "monitoring" / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_grafana_finds_its_source_and_its_dashboard(deploy: Path, compose: dict[str, Any]) -> None:
    (source,) = yaml.safe_load((deploy / "monitoring" / "grafana_sources.yaml").read_text())["datasources"]
    (folder,) = yaml.safe_load((deploy / "monitoring" / "grafana_folders.yaml").read_text())["providers"]
    assert source["url"] == "http://prometheus:9090"
    mounted = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    assert any(target.startswith(folder["options"]["path"] + "/") for target in mounted)


def test_the_ports_that_are_scraped_are_published_by_the_head(deploy: Path, compose: dict[str, Any]) -> None:
    config = yaml.safe_load((deploy / "monitoring" / "prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    targets = [target for one in job["static_configs"] for target in one["targets"]]
    command = compose["services"]["ray-head"]["command"]
    (port,) = [one.partition("=")[2] for one in command if one.startswith("--metrics-export-port=")]
    from ray.autoscaler._private.constants import AUTOSCALER_METRIC_PORT
    from ray.dashboard.consts import DASHBOARD_METRIC_PORT

    assert targets == [f"ray-head:{one}" for one in (port, AUTOSCALER_METRIC_PORT, DASHBOARD_METRIC_PORT)]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian's package prometheus)")
def test_prometheus_takes_its_configuration(deploy: Path) -> None:
    path = deploy / "monitoring" / "prometheus.yaml"
    subprocess.run(["promtool", "check", "config", str(path)], check=True, capture_output=True)
