"""Checkpoints: everything that a resumed run needs, in one folder that is complete or absent.

``step_00000100/``
    ``<module>.safetensors``      parameters and buffers of one module
    ``training.pt``               optimisers, and the plain state of method and loop
    ``checkpoint.json``           step, last validation, MLflow run, identity, size and SHA-256 of the other files;
                                  written last

The folder is written under another name, flushed, and renamed: a reader never sees half of it. Where results lie at a
URI it is sent then, and counts there when ``checkpoint.json``, sent last, has come. No state of a random generator is
in it: whoever draws is seeded by step and position (``docs/decisions/006-checkpoints-at-rest.md``).
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tats_ray.copies import uri_of, where
from tats_ray.mirror import exists, fetch, listed, read_text, remove, send
from tats_ray.training.optim import Trainable

INDEX = "checkpoint.json"
_FOLDER = re.compile(r"step_(\d{8,})")


class CheckpointError(Exception):
    """A checkpoint cannot be used, written or chosen; the message names it and says the way out."""


@dataclass(frozen=True)
class Captured:
    """Everything that a checkpoint holds, copied to the host: training may go on while it is written."""

    step: int
    modules: Mapping[str, Mapping[str, Tensor]]
    training: Mapping[str, object]
    measured: Mapping[str, float]
    run_id: str | None
    identity: Mapping[str, str] = field(default_factory=dict)


def capture(
    *,
    step: int,
    modules: Mapping[str, nn.Module],
    trainables: Mapping[str, Trainable],
    state: Mapping[str, object],
    measured: Mapping[str, float],
    run_id: str | None,
    identity: Mapping[str, str] | None = None,
    over: Captured | None = None,
) -> Captured:
    """Copy what a checkpoint holds to the host; all that training waits for.

    Args:
        step: Steps done.
        modules: Whose parameters and buffers are saved, by name.
        trainables: Whose optimisers are saved, by name.
        state: Plain state of method and loop.
        measured: The last validation, by which the best checkpoint is told.
        run_id: Run of the tracker, for whoever finds the folder alone.
        identity: What others name this very state of a module by, by the module's name.
        over: An earlier copy that nobody needs any more; its memory is used again, which is several times faster than
            memory that the system has to find first.
    """
    weights = {name: module.state_dict() for name, module in modules.items()}
    optimizers = {name: trainable.optimizer.state_dict() for name, trainable in trainables.items()}
    captured = Captured(
        step=step,
        modules=_on_host(weights, over.modules if over else None),
        training=_on_host({"optimizers": optimizers, "state": state}, over.training if over else None),
        measured=dict(measured),
        run_id=run_id,
        identity=dict(identity or {}),
    )
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # the copies of all tensors were started together
    return captured


def write_checkpoint(root: Path, captured: Captured) -> Path:
    """Write a checkpoint below ``root``; return its folder, which is complete.

    Raises:
        CheckpointError: The disk is full, say; what was written before is untouched.
    """
    final = root / f"step_{captured.step:08d}"
    partial = root / f".partial_{final.name}"
    previous = next(reversed(_on_disk(root)), None)
    try:
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob(".partial_*"):  # by a process that was killed
            shutil.rmtree(left)
        partial.mkdir()
        _write_files(partial, captured)
        if final.exists():  # the same stretch of steps, trained again after a restart
            shutil.rmtree(final)
        partial.rename(final)
        _flush(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)  # half a checkpoint is of no use, and may be what fills the disk
        intact = (
            "there is no earlier checkpoint" if previous is None else f"the previous checkpoint {previous} is intact"
        )
        raise CheckpointError(
            f"checkpoint {final} could not be written: {error}; free space there or make the folder writable, then "
            f"start the run again: {intact}"
        ) from error
    _send(final)
    return final


def send_left(root: Path) -> None:
    """Send the checkpoints that this machine wrote, and a store did not take, where they are newer than all it has.

    Raises:
        CheckpointError: It does not take them now.
    """
    if uri_of(root) is None:
        return
    there = checkpoints(root)
    for folder in _on_disk(root):
        if (folder / INDEX).exists() and (not there or folder.name > there[-1].name):
            _send(folder)


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint; until all of it is gone it is none."""
    remove(folder, first=INDEX)


def checkpoints(root: Path) -> list[Path]:
    """Return the complete checkpoints below ``root``, oldest first; of a store, those whose index has come."""
    if uri_of(root) is None:
        return _on_disk(root)
    names = {path.parts[0] for path in listed(root, depth=2) if path.name == INDEX}
    return [root / name for name in sorted(names) if _FOLDER.fullmatch(name)]


def _on_disk(root: Path) -> list[Path]:
    if not root.exists():
        return []
    found = [(int(match[1]), path) for path in root.iterdir() if (match := _FOLDER.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _send(folder: Path) -> None:
    try:
        send(folder, last=INDEX)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {folder} is whole on {socket.gethostname()}, and could not be sent: {error}; start the run "
            f"again there: it is sent first, and the run goes on from it"
        ) from error


def latest_checkpoint(root: Path) -> Path | None:
    """Return the newest checkpoint below ``root``; None when there is none."""
    found = checkpoints(root)
    return found[-1] if found else None


def checkpoint_step(folder: Path) -> int:
    """Return the step after which a checkpoint was taken."""
    return _index(folder)["step"]


def checkpoint_measured(folder: Path) -> dict[str, float]:
    """Return the last validation before a checkpoint was taken."""
    return _index(folder).get("measured", {})


def checkpoint_identity(folder: Path) -> dict[str, str]:
    """Return what others name a checkpoint's modules by, such as the content hash of a tokenizer; often nothing."""
    return _index(folder).get("identity", {})


def load_checkpoint(
    folder: Path, modules: Mapping[str, nn.Module], trainables: Mapping[str, Trainable], *, device: torch.device
) -> dict[str, object]:
    """Restore modules and optimisers in place; return the plain state.

    An optimiser takes its moments from the checkpoint and its settings (rates, decay, betas) from the run, which may go
    on with others.

    Raises:
        CheckpointError: A file is missing, truncated or altered, or belongs to another model.
    """
    verify_checkpoint(folder)
    saved = torch.load(folder / "training.pt", map_location=device, weights_only=True)
    for name, module in modules.items():
        load_module(folder, name, module)
    for name, trainable in trainables.items():
        own = trainable.optimizer.state_dict()["param_groups"]
        trainable.optimizer.load_state_dict({"state": saved["optimizers"][name]["state"], "param_groups": own})
    return saved["state"]


def load_module(folder: Path, name: str, module: nn.Module) -> None:
    """Take over one module's weights.

    Raises:
        CheckpointError: The checkpoint holds no such module, or one of another shape.
    """
    path = folder / f"{name}.safetensors"
    if not path.exists():
        raise CheckpointError(f"checkpoint {folder} holds no {name}.safetensors: it is no checkpoint of such a run")
    try:
        module.load_state_dict(load_file(path))
    except RuntimeError as error:
        first, *more = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        others = f" (and {len(more)} more)" if more else ""
        raise CheckpointError(f"{path} does not fit this model: {first}{others}") from error


def saved_shape(folder: Path, name: str, parameter: str) -> tuple[int, ...] | None:
    """Return the shape of one module's parameter without loading it; None where the checkpoint lacks the module."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        return tuple(file.get_slice(parameter).get_shape())


def verify_checkpoint(folder: Path) -> None:
    """Check every file's size and checksum; one that lies in a store is brought to this machine first.

    Raises:
        CheckpointError: With the file, what is wrong, and the way out.
    """
    _bring(folder)
    way_out = f"remove {where(folder)} to go on from the checkpoint before it, or start anew with --fresh"
    for name, wanted in _index(folder)["files"].items():
        path = folder / name
        size = path.stat().st_size if path.exists() else None
        if size != wanted["bytes"]:
            raise CheckpointError(f"checkpoint file {path} has {size} bytes, {wanted['bytes']} were written; {way_out}")
        if _digest(path) != wanted["sha256"]:
            raise CheckpointError(f"checkpoint file {path} was altered since it was written; {way_out}")


def _index(folder: Path) -> dict:
    try:
        return json.loads(read_text(folder / INDEX))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {where(folder)} has no readable {INDEX} ({error}); remove it or start anew with --fresh"
        ) from error


def _bring(folder: Path) -> None:
    """See that a store's checkpoint is on this machine; of several workers there one brings it."""
    if uri_of(folder) is None:
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".bringing").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        here = folder / INDEX
        if not here.exists() or (exists(here) and here.read_text() != read_text(here)):
            shutil.rmtree(folder, ignore_errors=True)
            fetch(folder, last=INDEX)


def _write_files(folder: Path, captured: Captured) -> None:
    for name, tensors in captured.modules.items():
        save_file(dict(tensors), folder / f"{name}.safetensors")
    with (folder / "training.pt").open("wb") as file:
        try:
            torch.save(captured.training, file)
        except RuntimeError as error:  # torch's own words about its archive, raised while handling the true reason
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in sorted(folder.iterdir())}
    index = {"step": captured.step, "measured": captured.measured, "mlflow_run_id": captured.run_id}
    index |= {"identity": dict(captured.identity), "files": files}
    (folder / INDEX).write_text(json.dumps(index, indent=2))
    for path in folder.iterdir():
        _flush(path)


def _on_host(value: Any, over: Any) -> Any:
    """Copy a tree of dictionaries and lists, with every tensor in it, over the memory of an earlier copy that fits."""
    if isinstance(value, Tensor):
        if not isinstance(over, Tensor) or (over.shape, over.dtype) != (value.shape, value.dtype):
            over = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        return over.copy_(value.detach(), non_blocking=True)
    if isinstance(value, Mapping):
        before = over if isinstance(over, Mapping) else {}
        return {key: _on_host(part, before.get(key)) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_host(part, None) for part in value)
    return value


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
