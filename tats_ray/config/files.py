"""A run to YAML and back, without loss."""

from pathlib import Path

import yaml

from tats_ray.config.overrides import ConfigError, R, read_yaml, validated
from tats_ray.config.run import Run, TrainRun
from tats_ray.copies import where
from tats_ray.mirror import read_text


def to_yaml(run: Run) -> str:
    """Return every setting of a run."""
    return yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False)


def read_run(path: Path, kind: type[R] = TrainRun) -> R:
    """Read a run of a kind as :func:`to_yaml` wrote it; settings left out take their defaults.

    Raises:
        ConfigError: The file is missing, is not YAML, or holds a wrong setting.
    """
    try:
        tree = read_yaml(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {where(path)} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {where(path)} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"--config {where(path)} must hold settings by name, got {type(tree).__name__}")
    try:
        return validated(tree, kind)
    except ConfigError as error:
        raise ConfigError(f"--config {where(path)}: {error}") from error
