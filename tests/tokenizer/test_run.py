"""A tokenizer's run from the command line: it learns, is resumed, and is known by its content hash."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from pipelines.train_tokenizer import main
from tats_ray.config.overrides import change
from tats_ray.driver import RunFailedError, conduct
from tats_ray.encoding import FrozenTokenizer
from tats_ray.training.state import checkpoint_identity
from tats_ray.worker import Launch, run_with_bar

MADE = runpy.run_path(str(Path(__file__).with_name("made.py")))


def arguments(manifest: Path, results: Path, *more: str) -> list[str]:
    knobs = [f"{path}={json.dumps(value)}" for path, value in MADE["SMALL"].items()]
    return [*knobs, f"data.manifest={manifest}", f"results={results}", *more]


def test_a_run_ends_in_a_checkpoint_that_is_known_by_its_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = MADE["write_videos"](tmp_path / "videos", count=10)
    assert main(arguments(manifest, tmp_path, "--dry-run")) == 0
    assert "kept latents                       24" in capsys.readouterr().out
    assert main(arguments(manifest, tmp_path, "losses.adversarial_weight=0.1", "losses.discriminator_channels=2")) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "tokenizer-tiny" / "0001"
    frozen = FrozenTokenizer.load(folder, device=torch.device("cpu"))
    assert frozen.tokenizer.content_hash() == frozen.digest
    assert checkpoint_identity(folder / "checkpoints" / "step_00000004") == {"tokenizer": frozen.digest}
    assert frozen.digest in said
    assert (folder / "pictures" / "reconstruction_step_00000004.png").exists()
    summary = json.loads((folder / "summary.json").read_text())
    assert {"validation/psnr", "validation/ssim", "validation/code_usage", "validation/kept_on_motion"} <= set(summary)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.get_run(json.loads((folder / "status.json").read_text())["mlflow_run_id"])
    assert run.data.tags["tats.tokenizer"] == frozen.digest
    assert run.data.tags["tats.trains"] == "tokenizer"
    assert run.data.params["tokenizer.keep_ratio"] == "0.75"
    assert "validation/psnr" in run.data.metrics


def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    manifest = MADE["write_videos"](tmp_path / "videos", count=10)

    def fails(launch: Launch) -> None:
        run_with_bar(launch)
        raise RunFailedError("the machine is gone")

    ends = []
    for name in ("whole", "stopped"):
        run = change(MADE["small_tokenizer"](tmp_path), [("name", name), ("data.manifest", str(manifest))])
        checkpoints = tmp_path / name / "0001" / "checkpoints"
        if name == "stopped":
            with pytest.raises(RunFailedError, match="the machine is gone"):
                conduct(run, fails)
            (checkpoints / "step_00000004").rename(tmp_path / "lost")
        resumed_from = conduct(run, run_with_bar).resumed_from
        assert resumed_from == (checkpoints / "step_00000002" if name == "stopped" else None)
        ends.append(checkpoint_identity(checkpoints / "step_00000004"))
    assert ends[0] == ends[1]
