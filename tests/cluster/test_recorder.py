"""What a sweep's driver notes when Tune calls it."""

import io
from pathlib import Path

import pytest
from ray.exceptions import RayActorError
from ray.train._internal.storage import StorageContext
from ray.tune.experiment import Trial
from rich.console import Console
from rich.progress import Progress

from tats_ray.cluster.recorder import Recorder
from tats_ray.sweeping.journal import Journal


@pytest.mark.ray
def test_why_a_trial_was_lost_is_known_before_tune_has_copied_it(tmp_path: Path) -> None:
    trial = Trial(
        "stub",
        stub=True,
        storage=StorageContext(storage_path=str(tmp_path), experiment_dir_name="tune", trial_dir_name="000"),
        config={"trial": {"name": "000", "knobs": {"optim.weight_decay": 0.1}, "seed": 3}},
        trial_name_creator=lambda trial: trial.config["trial"]["name"],
    )
    trial.init_local_path()
    trial.handle_error(RayActorError(error_msg="of a process\n\tits worker died\n"))
    assert trial.get_error() is None
    progress = Progress(console=Console(file=io.StringIO()))
    recorder = Recorder(
        Journal(tmp_path), "none", metric="loss", progress=progress, task=progress.add_task("", total=2)
    )
    recorder.on_trial_error(1, [trial], trial)
    (ended,) = Journal(tmp_path).ended().values()
    assert (ended.name, ended.status, ended.reason, ended.seed) == ("000", "failed", "its worker died", 3)
    assert progress.tasks[0].completed == 1
