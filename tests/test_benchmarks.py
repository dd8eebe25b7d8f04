"""Benchmarks that no other test uses still run, and agree with themselves."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tats_ray.config.run import TrainRun
from tats_ray.data.listing import list_sources
from tats_ray.data.manifest import Manifest
from tats_ray.data.probe import probe_record
from tats_ray.data.synthetic import LIST, SyntheticConfig, make_videos

REPO = Path(__file__).parents[1]


def test_long_video_counts_what_its_model_says_and_draws(tmp_path: Path) -> None:
    asked = "--size tiny --pixels 32 --frames 16 --budgets all 15 --attention sdpa --rounds 1 --threads 1"
    files = ["--record", tmp_path / "lines.jsonl", "--plot", tmp_path / "plot.png"]
    made = subprocess.run(
        [sys.executable, REPO / "benchmarks" / "long_video.py", *asked.split(), *files], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    dense, some = (json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines())
    for line in (dense, some):
        assert line["counted_flops"] == pytest.approx(line["flops"], rel=0.03)
        assert line["seconds"][0] > 0
        assert 0 < line["choice"] < 1
    assert dense["decoding_share_of_dense"] == 1
    assert some["decoding_share_of_dense"] < 0.2
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_events_are_told_apart_by_the_axis_of_motion_and_not_by_its_amount(
    tmp_path: Path, small_run: Callable[..., TrainRun], save_run: Callable[..., Path]
) -> None:
    manifests = []
    for name, seed, number in (("train", 0, 24), ("test", 1, 12)):
        make_videos(tmp_path / name, SyntheticConfig(num_videos=number, frames=64, events=True, twins=0, seed=seed))
        sources = list_sources(tmp_path / name / LIST)
        manifests.append(tmp_path / f"{name}.parquet")
        Manifest.of([probe_record(source, label=label) for source, label in sources]).write(manifests[-1])
    knobs = {"data.crop_size": 32, "model.patch_size": 8}
    noise = save_run(small_run("noise", manifest=manifests[0], results=tmp_path / "results", knobs=knobs))
    made = subprocess.run(
        [sys.executable, REPO / "benchmarks" / "events.py", *manifests, "--frames", "64", "--checkpoint", noise],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    rows = {line.split()[-1]: [float(figure) for figure in line.split()[:-1]] for line in made.stdout.splitlines()[2:]}
    assert list(rows) == ["axes", "amount", "pixels", str(noise)]
    assert [len(figures) for figures in rows.values()] == [2, 2, 3, 3]
    assert rows["axes"][1] > 0.7
    assert rows["amount"][1] < 0.6
