"""Where a relative path counts from."""

from pathlib import Path

import pytest

from tats_ray.config.overrides import ConfigError
from tats_ray.driver import absolute


def test_a_relative_path_counts_from_here_but_not_in_a_ray_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert absolute("some/where", "results") == str(tmp_path / "some" / "where")
    assert absolute("~/x", "results") == str(Path.home() / "x")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert absolute("/some/where", "results") == "/some/where"
    with pytest.raises(ConfigError, match=r"^results must be an absolute path in a Ray job, got 'some/where'"):
        absolute("some/where", "results")
