"""A run on several nodes of which some go and come: it goes on, and has seen what it would have seen."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tats_ray import worker
from tats_ray.config.run import TrainRun
from tats_ray.driver import conduct
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.run_folder import read_status
from tats_ray.training.context import LocalContext
from tats_ray.worker import run_alone

SCRIPT = Path(__file__).parent / "nodes_run.py"
KILLING = runpy.run_path(str(Path(__file__).parents[1] / "killing.py"))
STEPS, BATCH = 16, 4
SECONDS = 600
"""When to give up; a minute and a half is enough on two idle cores."""


@pytest.mark.slow
def test_nodes_that_go_and_come_change_nothing_about_what_is_learnt_from(
    tmp_path: Path, small_run: Callable[..., TrainRun], write_manifest: Callable[[Path], Path]
) -> None:
    manifest = write_manifest(tmp_path / "videos")
    knobs = {
        "training.steps": STEPS,
        "training.micro_batch": 2,
        "training.picture_every": None,
        "cluster.num_workers": 2,
        "cluster.min_workers": 1,
        "cluster.cpus_per_worker": 2,
        "cluster.clips_per_block": 4,
    }
    run = small_run("nodes", manifest=manifest, results=tmp_path / "results", knobs=knobs)
    (tmp_path / "run.json").write_text(run.model_dump_json())
    noted = tmp_path / "noted"
    noted.mkdir()
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "run.json", noted],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "nodes" / "0001"
    assert read_status(folder)["status"] == "FINISHED"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "run_training", worker.run_training)  # so that what is patched is taken back
        patch.setattr(MaskedAutoencoding, "train_step", MaskedAutoencoding.train_step)
        KILLING["arm"](None, tmp_path / "whole")
        alone = small_run("alone", manifest=manifest, results=tmp_path / "results", knobs={"training.steps": STEPS})
        conduct(alone, lambda launch: run_alone(launch, LocalContext(torch.device("cpu"))))
    lineage = KILLING["lineage"](noted)
    assert lineage == KILLING["lineage"](tmp_path / "whole")
    assert len(lineage) == STEPS * BATCH

    notes = {path: json.loads(path.read_text()) for path in noted.glob("at_*.json")}
    decoder = (noted / "decoder").read_text()
    assert decoder not in {note["node"] for note in notes.values()}
    assert (noted / f"decoded_on_{decoder}").exists()
    assert {note["workers"] for note in notes.values()} == {1, 2}
    last = [note for path, note in notes.items() if path.name.startswith(f"at_{STEPS - 1}_")]
    assert [note["workers"] for note in last] == [2, 2]
    assert len({note["node"] for note in notes.values()}) == 3
