"""The recipes of long clips, cut short: from files to a checkpoint, on videos shorter than a clip."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tats_ray.config.overrides import change
from tats_ray.driver import conduct
from tats_ray.recipes import recipe
from tats_ray.training.context import LocalContext
from tats_ray.worker import describe, run_alone

SHORT = {
    "cluster.num_workers": 0,
    "data.num_frames": 16,
    "data.held_out": 2,
    "training.steps": 4,
    "training.global_batch": 4,
    "training.micro_batch": 4,
    "training.validate_every": 1,
    "training.picture_every": 4,
    "training.checkpoint_every": 4,
    "tracking.log_every": 1,
}
WINDOWS = {
    "masking.visible.window_frames": 8,
    "masking.visible.switch.critic_by": 0.2,
    "masking.visible.switch.policy_by": 0.4,
    "masking.visible.ppo.rollout_steps": 1,
}


@pytest.mark.parametrize(
    ("name", "more", "visible"), [("lvmae-tiny", {}, "12"), ("tats-long-tiny", WINDOWS, "25")], ids=["random", "tats"]
)
def test_a_long_recipe_trains(
    name: str, more: dict[str, object], visible: str, tmp_path: Path, write_manifest: Callable[[Path], Path]
) -> None:
    manifest = write_manifest(tmp_path / "videos")  # of 8 frames, which begin again
    given = {**SHORT, **more, "data.manifest": str(manifest), "results": str(tmp_path / "results")}
    run = change(recipe(name), given.items())
    facts = describe(run)
    assert (facts["visible tokens"], facts["target tokens"]) == (visible, "18")  # 12.8 and 6.4 of 128, rounded down
    outcome = conduct(run, lambda launch: run_alone(launch, LocalContext(torch.device("cpu"))))
    assert outcome.summary["step"] == 4.0
    assert 0 < outcome.summary["validation/random_mask_error"] < 3
    assert (outcome.launch.folder / "checkpoints" / "step_00000004" / "autoencoder.safetensors").exists()
