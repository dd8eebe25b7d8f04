"""Benchmarks that no other test uses still run, and agree with themselves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_long_video_counts_what_its_model_says_and_draws(tmp_path: Path) -> None:
    asked = "--size tiny --pixels 32 --frames 16 --budgets all 15 --attention sdpa --rounds 1 --threads 1"
    files = ["--record", tmp_path / "lines.jsonl", "--plot", tmp_path / "plot.png"]
    made = subprocess.run(
        [sys.executable, BENCHMARKS / "long_video.py", *asked.split(), *files], capture_output=True, text=True
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
