"""A run in one process that is killed outright, wherever that is, goes on to the very weights of one that never was."""

import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tats_ray import worker
from tats_ray.config.run import TrainRun
from tats_ray.driver import Outcome, conduct
from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
from tats_ray.run_folder import read_status
from tats_ray.training.context import LocalContext
from tats_ray.worker import run_alone

SCRIPT = Path(__file__).parent / "killing.py"
KILLING = runpy.run_path(str(SCRIPT))
STEPS = 10
SECONDS = 300
"""When to give up on the processes that are killed; 30 are enough for them alone."""


def executed(run: TrainRun, folder: Path) -> Outcome:
    """Train in this process, noting clips."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "run_training", worker.run_training)  # so that what is patched is taken back
        patch.setattr(MaskedAutoencoding, "train_step", MaskedAutoencoding.train_step)
        KILLING["arm"](None, folder)
        return conduct(run, lambda launch: run_alone(launch, LocalContext(torch.device("cpu"))))


@dataclass(frozen=True)
class Scene:
    """A run that nothing disturbed, and one killed by each fault."""

    whole: Outcome
    folder: Path
    runs: dict[str, TrainRun]


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory,
    small_run: Callable[..., TrainRun],
    write_manifest: Callable[[Path], Path],
) -> Scene:
    folder, results = tmp_path_factory.mktemp("faults"), tmp_path_factory.mktemp("results")
    manifest = write_manifest(tmp_path_factory.mktemp("videos"))
    knobs = {"training.steps": STEPS, "training.picture_every": STEPS}
    runs = {name: small_run(name, manifest=manifest, results=results, knobs=knobs) for name in KILLING["FAULTS"]}
    whole = executed(small_run("whole", manifest=manifest, results=results, knobs=knobs), folder / "whole")
    for name, run in runs.items():
        (folder / f"{name}.json").write_text(run.model_dump_json())
    done = subprocess.run(
        [sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    return Scene(whole, folder, runs)


@pytest.mark.parametrize("fault", KILLING["FAULTS"])
def test_a_killed_run_goes_on_to_the_same_bits(scene: Scene, fault: str) -> None:
    run = scene.runs[fault]
    assert (scene.folder / fault / "status").read_text() == str(-signal.SIGKILL)
    assert (scene.folder / fault / "fired").exists()
    assert run.results is not None
    folder = Path(run.results) / fault / "0001"
    assert read_status(folder)["status"] == "RUNNING"
    resumed = executed(run, scene.folder / fault)
    assert resumed.launch.folder == folder
    assert resumed.resumed_from is not None
    wanted, found = (KILLING["final_state"](outcome.launch.folder) for outcome in (scene.whole, resumed))
    assert wanted.keys() == found.keys()
    assert [name for name, value in wanted.items() if not torch.equal(value, found[name])] == []
    assert resumed.summary == scene.whole.summary
    lineage = KILLING["lineage"]
    assert lineage(scene.folder / fault) == lineage(scene.folder / "whole")
    assert len(lineage(scene.folder / fault)) == STEPS * run.training.global_batch
    assert not list(folder.glob("checkpoints/.partial*"))
    KILLING["check_history"](resumed.launch.handle, steps=STEPS)
