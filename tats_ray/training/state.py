"""Checkpoints: everything that a resumed run needs, in one folder that is complete or absent.

``step_00000100/``
    ``<module>.safetensors``      parameters and buffers of one module
    ``training.pt``               optimisers, and the plain state of method and loop
    ``checkpoint.json``           step, and size and SHA-256 of the other files; written last

The folder is written under another name, flushed, and renamed: a reader never sees half of it.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tats_ray.training.optim import Trainable

INDEX = "checkpoint.json"
_FOLDER = re.compile(r"step_(\d{8,})")


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message names it and says the way out."""


def save_checkpoint(
    root: Path,
    *,
    step: int,
    modules: Mapping[str, nn.Module],
    trainables: Mapping[str, Trainable],
    state: Mapping[str, object],
    keep: int,
) -> Path:
    """Write a checkpoint below ``root``, then remove all but the newest ``keep``."""
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"step_{step:08d}"
    partial = root / f".partial_{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, module in modules.items():
        save_file(_tensors(module), partial / f"{name}.safetensors")
    optimizers = {name: trainable.optimizer.state_dict() for name, trainable in trainables.items()}
    torch.save({"optimizers": optimizers, "state": dict(state)}, partial / "training.pt")
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in sorted(partial.iterdir())}
    (partial / INDEX).write_text(json.dumps({"step": step, "files": files}, indent=2))
    for path in partial.iterdir():
        _flush(path)
    if final.exists():  # the same stretch of steps, trained again after a restart
        shutil.rmtree(final)
    partial.rename(final)
    _flush(root)
    for old in _complete(root)[:-keep]:
        shutil.rmtree(old)
    return final


def latest_checkpoint(root: Path) -> Path | None:
    """Return the newest checkpoint below ``root``; None when there is none."""
    found = _complete(root)
    return found[-1] if found else None


def checkpoint_step(folder: Path) -> int:
    """Return the step after which a checkpoint was taken."""
    return _index(folder)["step"]


def load_checkpoint(
    folder: Path, modules: Mapping[str, nn.Module], trainables: Mapping[str, Trainable], *, device: torch.device
) -> dict[str, object]:
    """Restore modules and optimisers in place; return the plain state.

    Raises:
        CheckpointError: A file is missing, truncated or altered, or belongs to another model.
    """
    verify_checkpoint(folder)
    saved = torch.load(folder / "training.pt", map_location=device, weights_only=True)
    for name, module in modules.items():
        load_module(folder, name, module)
    for name, trainable in trainables.items():
        trainable.optimizer.load_state_dict(saved["optimizers"][name])
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
        raise CheckpointError(f"{path} does not fit this model: {error}") from error


def verify_checkpoint(folder: Path) -> None:
    """Check every file's size and checksum.

    Raises:
        CheckpointError: With the file, what is wrong, and the way out.
    """
    way_out = f"remove {folder} to go on from the checkpoint before it, or start anew with --fresh"
    for name, wanted in _index(folder)["files"].items():
        path = folder / name
        size = path.stat().st_size if path.exists() else None
        if size != wanted["bytes"]:
            raise CheckpointError(f"checkpoint file {path} has {size} bytes, {wanted['bytes']} were written; {way_out}")
        if _digest(path) != wanted["sha256"]:
            raise CheckpointError(f"checkpoint file {path} was altered since it was written; {way_out}")


def _index(folder: Path) -> dict:
    try:
        return json.loads((folder / INDEX).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {folder} has no readable {INDEX} ({error}); remove it or start anew with --fresh"
        ) from error


def _complete(root: Path) -> list[Path]:
    if not root.exists():
        return []
    found = [(int(match[1]), path) for path in root.iterdir() if (match := _FOLDER.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
