"""A run cut out of a longer one is the run that was short from the beginning."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tats_ray.comparison.plan import Arm, Comparison, plan
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.driver import Outcome, RunFailedError, conduct
from tats_ray.training.context import LocalContext
from tats_ray.training.state import checkpoints
from tats_ray.worker import Launch, run_alone

KNOBS = {
    "optim.schedule": "constant",
    "optim.warmup_share": 0.0,
    "masking.visible.switch.critic_by": 0.0,  # from step 1 on, whatever the length
    "masking.visible.switch.policy_by": 0.0,
}


def alone(launch: Launch) -> None:
    run_alone(launch, LocalContext(torch.device("cpu")))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = checkpoints(folder / "checkpoints")[-1]
    return {
        f"{name}.{key}": value
        for name in ("autoencoder", "tats")
        for key, value in load_file(newest / f"{name}.safetensors").items()
    }


@pytest.fixture
def make_run(
    tmp_path: Path, write_manifest: Callable[[Path], Path], small_run: Callable[..., TrainRun]
) -> Callable[..., TrainRun]:
    manifest = write_manifest(tmp_path / "videos")

    def make(name: str, knobs: dict[str, object]) -> TrainRun:
        return small_run(name, manifest=manifest, results=tmp_path / "results", knobs={**KNOBS, **knobs})

    return make


def test_a_cut_is_the_run_that_was_short_from_the_beginning(make_run: Callable[..., TrainRun]) -> None:
    long = conduct(make_run("long", {"optim.cooldown_share": 2 / 8, "training.keep_after": [4]}), alone)
    kept = [folder.name for folder in checkpoints(long.launch.folder / "checkpoints")]
    assert kept[0] in ("step_00000004", "step_00000005")  # the next at which no rollout waits
    at = int(kept[0][-1])
    cut = {"training.steps": at + 2, "optim.cooldown_share": 2 / (at + 2)}
    init = str(long.launch.folder / "checkpoints" / kept[0])
    fork = conduct(make_run("fork", {**cut, "init": init, "init_takes": "training"}), alone)
    short = conduct(make_run("short", cut), alone)
    assert fork.summary["step"] == at + 2
    assert all(
        torch.equal(value, weights(short.launch.folder)[name]) for name, value in weights(fork.launch.folder).items()
    )
    same = {
        name
        for name, value in weights(long.launch.folder).items()
        if torch.equal(value, weights(fork.launch.folder)[name])
    }
    assert not {"autoencoder.encoder.embed.weight", "tats.actor.weight"} & same
    # Clips and FLOPs count from the beginning of the training, wherever it took place.
    assert fork.summary["clips"] == (at + 2) * 4


def test_going_on_needs_something_to_go_on_from(make_run: Callable[..., TrainRun]) -> None:
    with pytest.raises(RunFailedError, match="init_takes=training goes on from a checkpoint; name it"):
        conduct(make_run("none", {"init_takes": "training"}), alone)
    done = conduct(make_run("done", {}), alone)
    with pytest.raises(RunFailedError, match=r"goes on from step 8 of .* and this run ends at step 8; raise"):
        conduct(make_run("more", {"init": str(done.launch.folder), "init_takes": "training"}), alone)
    finer = change(make_run("other", {"training.steps": 12}), [("model.decoder.depth", 2)])
    with pytest.raises(RunFailedError, match="does not fit this model"):
        conduct(change(finer, [("init", str(done.launch.folder)), ("init_takes", "training")]), alone)


def test_a_critic_that_learns_in_a_warm_up_leaves_the_autoencoder_bit_for_bit(
    make_run: Callable[..., TrainRun],
) -> None:
    """So arms with and without a critic may share a warm-up, or have two."""
    base = change(make_run("shared", {}), [("training.steps", 8)])
    arms = [Arm("random", {"masking.visible.kind": "random"}), Arm("tats", {"masking.visible.kind": "tats"})]
    common = {"ratios": (0.8,), "seeds": (0,), "warm_steps": 8, "steps": 40, "cooldown_steps": 2}
    warm = {}
    for critic_steps in (0, 4):
        made = plan(Comparison(run=base, arms=arms, critic_steps=critic_steps, **common))
        run = change(made.runs["shared-warm-s0"].run, [("name", f"warm-{critic_steps}")])
        warm[critic_steps] = conduct(run, alone)
    random, critic = (load_file(newest(one) / "autoencoder.safetensors") for one in warm.values())
    assert random.keys() == critic.keys()
    assert all(torch.equal(random[name], critic[name]) for name in random)
    assert warm[4].summary["sampler/critic_on_step"] == 4
    taught = load_file(newest(warm[4]) / "tats.safetensors")
    assert taught["critic.weight"].abs().max() > 0
    assert taught["actor.weight"].abs().max() == 0


def newest(outcome: Outcome) -> Path:
    return checkpoints(outcome.launch.folder / "checkpoints")[-1]
