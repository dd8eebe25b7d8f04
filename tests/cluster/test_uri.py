"""Workers of Ray whose results lie at a URI."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tats_ray.cluster.train import check_cluster, run_on_ray
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.copies import where
from tats_ray.driver import conduct, prepare

pytestmark = pytest.mark.ray


@pytest.fixture
def run(
    small_run: Callable[..., TrainRun],
    write_manifest: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> TrainRun:
    monkeypatch.setenv("TATS_COPIES", str(tmp_path / "copies"))
    knobs = {
        "results": f"local://{tmp_path}/store",
        "tracking.uri": f"sqlite:///{tmp_path}/mlflow.db",
        "cluster.num_workers": 2,
        "training.micro_batch": 2,
    }
    return small_run("far", manifest=write_manifest(tmp_path / "videos"), results=tmp_path, knobs=knobs)


def test_two_workers_train_the_same_at_a_uri_and_go_on_from_it(run: TrainRun, tmp_path: Path) -> None:
    check_cluster(prepare(run)[0])
    whole = conduct(change(run, [("results", str(tmp_path / "near"))]), run_on_ray)
    far = tmp_path / "store" / "far" / "0001"
    first = conduct(run, run_on_ray)
    assert where(first.launch.folder) == f"local://{far}"
    shutil.rmtree(tmp_path / "copies")
    shutil.rmtree(far / "checkpoints" / "step_00000008")
    status = far / "status.json"
    status.write_text(status.read_text().replace("FINISHED", "KILLED"))
    again = conduct(run, run_on_ray)
    assert again.resumed_from is not None
    assert again.resumed_from.name == "step_00000006"
    files = sorted((whole.launch.folder / "checkpoints" / "step_00000008").glob("*.safetensors"))
    assert files
    for file in files:
        wanted, found = load_file(file), load_file(far / "checkpoints" / "step_00000008" / file.name)
        assert all(torch.equal(value, found[name]) for name, value in wanted.items())
