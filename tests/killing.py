"""Kills the process that trains at an event, once, and notes every clip that a step is given; the library has no hook.

As a script, ``killing.py FOLDER``: for each ``FOLDER/<fault>.json``, a run, a child of this process arms the fault,
trains, and is killed. One import of the library serves them all.
"""

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FAULTS = {
    "before_a_step": "a step is about to begin",
    "in_a_backward_pass": "gradients are on their way",
    "in_a_ppo_epoch": "some minibatches of an update are done",
    "in_a_checkpoint": "some of its files are written",
    "before_the_rename": "all of its files are written, under another name",
    "before_the_report": "it is complete, and the launcher does not know",
    "after_the_report": "the launcher knows, and the loop has not gone on",
    "in_a_decode": "a clip is being decoded",
}


def arm(fault: str | None, folder: Path) -> None:
    """Patch this process: note clips below ``folder/clips``; die by ``fault``, unless ``folder/fired`` says it did."""
    from tats_ray import worker
    from tats_ray.data import loader
    from tats_ray.methods.masked_autoencoder import MaskedAutoencoding
    from tats_ray.training import state
    from tats_ray.training.stepper import GradientStepper

    folder.mkdir(parents=True, exist_ok=True)

    def die(*_: object, **__: object) -> None:
        try:
            (folder / "fired").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    def wrapped_training(launch: Any, context: Any, shares_of: Any) -> Any:
        note_clips(MaskedAutoencoding, folder / "clips", context)
        if fault == "before_the_report":
            before(type(context), "checkpointed", die, nth=2)
        if fault == "after_the_report":
            after(type(context), "checkpointed", die, nth=2)
        return training(launch, context, shares_of)

    training = worker.run_training
    worker.run_training = wrapped_training
    if "tats_ray.cluster.train" in sys.modules:
        sys.modules["tats_ray.cluster.train"].run_training = wrapped_training  # type: ignore[attr-defined]

    if fault == "before_a_step":
        before(MaskedAutoencoding, "train_step", die, nth=6)
    if fault == "in_a_backward_pass":
        hook = lambda stepper, name, loss: loss.register_hook(die)  # noqa: E731
        before(GradientStepper, "accumulate", hook, nth=6, when=lambda stepper, name, loss: name == "autoencoder")
    if fault == "in_a_ppo_epoch":
        before(GradientStepper, "accumulate", die, nth=8, when=lambda stepper, name, loss: name == "sampler")
    if fault == "in_a_checkpoint":
        before(state, "save_file", die, nth=4)  # two modules, so the second file of the second checkpoint
    if fault == "before_the_rename":
        before(Path, "rename", die, nth=2, when=lambda path, target: Path(target).name.startswith("step_"))
    if fault == "in_a_decode":
        before(loader, "load_samples", die, nth=37)  # of 40; decoding is five steps ahead at most


def before(
    owner: Any, name: str, act: Callable[..., object], *, nth: int, when: Callable[..., bool] | None = None
) -> None:
    """Do something before the n-th call for which ``when`` holds."""
    wrapped, count = getattr(owner, name), 0

    def call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += when is None or when(*arguments, **keywords)
        if count == nth:
            act(*arguments, **keywords)
        return wrapped(*arguments, **keywords)

    setattr(owner, name, call)


def after(owner: Any, name: str, act: Callable[[], object], *, nth: int) -> None:
    """Do something after the n-th call."""
    wrapped, count = getattr(owner, name), 0

    def call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        result = wrapped(*arguments, **keywords)
        count += 1
        if count == nth:
            act()
        return result

    setattr(owner, name, call)


def note_clips(method: Any, folder: Path, context: Any) -> None:
    """Write a line for each clip that a step is given: step, place in the global batch, hash of its pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    life = context.all_gather(time.time_ns())[0]  # of the whole group
    path = folder / f"{life}.{context.rank}.jsonl"
    train_step = method.train_step

    def noting(batches: Any, *, step: int) -> Iterator[Any]:
        for batch in batches:
            lines = [
                json.dumps([step, row, hashlib.sha1(video.cpu().numpy().tobytes()).hexdigest()])
                for row, video in zip(batch.row.tolist(), batch.video, strict=True)
            ]
            with path.open("a") as file:
                file.writelines(f"{line}\n" for line in lines)
            yield batch

    def call(self: Any, batches: Any, *, step: int, **rest: Any) -> None:
        train_step(self, noting(batches, step=step), step=step, **rest)

    method.train_step = call


def lineage(folder: Path) -> list[list[Any]]:
    """Return the clips behind the final weights: of each step those of the last life that began it, in order."""
    last: dict[int, tuple[int, list[list[Any]]]] = {}
    for path in sorted((folder / "clips").iterdir(), key=lambda path: int(path.name.partition(".")[0])):
        life = int(path.name.partition(".")[0])
        for line in path.read_text().splitlines():
            clip = json.loads(line)
            if last.get(clip[0], (None,))[0] != life:
                last[clip[0]] = (life, [])
            last[clip[0]][1].append(clip)
    return sorted(clip for _, clips in last.values() for clip in clips)


def final_state(folder: Path) -> dict[str, Any]:
    """Return every number of a run's last checkpoint as a tensor: modules, optimisers, method; but no times."""
    import torch
    from safetensors.torch import load_file

    newest = max(folder.glob("checkpoints/step_*"))
    files = sorted(newest.glob("*.safetensors"))
    assert len(files) == 2, files
    state = {f"{path.stem}.{name}": tensor for path in files for name, tensor in load_file(path).items()}
    saved = torch.load(newest / "training.pt", weights_only=True)
    for name, optimizer in saved["optimizers"].items():
        for index, moments in optimizer["state"].items():
            state |= {f"{name}.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
    for name, value in saved["state"]["method"].items():
        state[f"method.{name}"] = torch.tensor(list(json.dumps(value).encode()))
    return state


def check_history(handle: Any, *, steps: int) -> None:
    """See that no metric goes back in its steps, and that none of the loss's is missing."""
    from mlflow import MlflowClient

    client = MlflowClient(handle.uri)
    told = {
        metric: [point.step for point in client.get_metric_history(handle.run_id, metric)]
        for metric in client.get_run(handle.run_id).data.metrics
    }
    assert {metric: found for metric, found in told.items() if found != sorted(set(found))} == {}
    assert told["reconstruction/loss"] == list(range(1, steps + 1))


def main(folder: Path) -> None:
    """Let a child die of each fault; all that a child shares with this process was imported before."""
    import torch

    from tats_ray.config.run import TrainRun
    from tats_ray.driver import conduct
    from tats_ray.training.context import LocalContext
    from tats_ray.worker import run_alone

    torch.set_num_threads(1)
    for path in sorted(folder.glob("*.json")):
        child = os.fork()
        if child == 0:
            try:
                arm(path.stem, folder / path.stem)
                run = TrainRun.model_validate_json(path.read_text())
                conduct(run, lambda launch: run_alone(launch, LocalContext(torch.device("cpu"))))
            except Exception:
                traceback.print_exc()
            os._exit(0)  # it should have been killed
        _, status = os.waitpid(child, 0)
        (folder / path.stem / "status").write_text(str(os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
