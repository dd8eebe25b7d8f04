"""What a run was made with: config, code, library versions, machine."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from tats_ray.tracking.store import without_credentials

_PARAM_LENGTH = 6000  # MLflow's limit, in characters
_DISTRIBUTIONS = ("tats-ray", "torch", "ray", "mlflow", "av", "timm")


def provenance_tags() -> dict[str, str]:
    """Tag a run with ``mlflow.source.git.commit`` (MLflow's own name), ``git.dirty``, ``version.*`` and ``hardware``.

    The git tags are absent where the package does not lie in a checkout. Hardware is that of the calling process.
    """
    return {**_git_tags(), **_version_tags(), "hardware": _hardware()}


def dotted_params(params: Mapping[str, Any], *, prefix: str = "") -> dict[str, str]:
    """Flatten a nested config into dotted paths, without credentials; what is not a string is written as JSON.

    Example:
        >>> dotted_params({"data": {"num_frames": 16, "source": None}})
        {'data.num_frames': '16', 'data.source': 'null'}
    """
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= dotted_params(value, prefix=f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[prefix + name] = _shortened(without_credentials(text))
    return flat


def _git_tags() -> dict[str, str]:
    here = Path(__file__)
    # An installed package may lie inside somebody else's checkout (a venv in a project): only a tracked file counts.
    if _output("git", "-C", str(here.parent), "ls-files", "--error-unmatch", here.name) is None:
        return {}
    commit = _output("git", "-C", str(here.parent), "rev-parse", "HEAD")
    changes = _output("git", "-C", str(here.parent), "status", "--porcelain")
    if commit is None or changes is None:
        return {}
    return {"mlflow.source.git.commit": commit, "git.dirty": "true" if changes else "false"}


def _version_tags() -> dict[str, str]:
    return {"version.python": platform.python_version()} | {
        f"version.{name}": _version(name) for name in _DISTRIBUTIONS
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _hardware() -> str:
    """One line: CPUs, memory, GPUs. Asks nvidia-smi, since asking torch would open a CUDA context in the driver."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    names = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "no GPU"
    return f"{os.cpu_count()} CPUs, {memory:.0f} GiB, {', '.join(names.splitlines())}"


def _shortened(text: str) -> str:
    if len(text) <= _PARAM_LENGTH:
        return text
    note = f" ... ({len(text)} characters)"
    return text[: _PARAM_LENGTH - len(note)] + note


def _output(*command: str) -> str | None:
    """What a program prints; None where it is missing, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except subprocess.SubprocessError:
        return None
