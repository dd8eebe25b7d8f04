"""The whole method at once, from files: autoencoder and sampler from scratch, in one run of the tiny recipe."""

import json
from pathlib import Path

import pytest

from tats_ray.config.overrides import change
from tats_ray.data.manifest import Manifest
from tats_ray.data.probe import probe_record
from tats_ray.data.source import VideoSource
from tats_ray.data.synthetic import SyntheticConfig, make_videos
from tats_ray.driver import conduct
from tats_ray.recipes import recipe
from tats_ray.worker import run_with_bar


@pytest.mark.slow
def test_the_sampler_finds_movers_and_not_their_static_twins(tmp_path: Path) -> None:
    """A detector of contrast would draw twins as often as movers; at temperature 0.5 movers come to about 1.5."""
    paths = make_videos(tmp_path / "videos", SyntheticConfig())
    manifest = tmp_path / "videos.parquet"
    Manifest.of(probe_record(VideoSource(str(path)), label=None) for path in paths).write(manifest)
    run = change(
        recipe("tiny"),
        [("results", str(tmp_path / "results")), ("data.manifest", str(manifest)), ("cluster.num_workers", 0)],
    )
    outcome = conduct(run, run_with_bar)
    summary = json.loads((outcome.launch.folder / "summary.json").read_text())
    assert summary["step"] - summary["sampler/policy_on_step"] >= 100
    assert summary["sampler/mover_lift"] > 1.25
    assert summary["sampler/twin_lift"] < 1.25
    assert 0.8 < summary["sampler/value_slope"] * run.masking.visible.ppo.temperature < 1.2
