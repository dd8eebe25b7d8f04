"""The flags of a sweep's script: what they change, and which are refused."""

import sys

import pytest
from ray import tune

from tats_ray.cluster import sweep_command
from tats_ray.cluster.search_space import SearchSpace
from tats_ray.cluster.sweep_command import main

SPACE = SearchSpace(
    "rates", "tiny", "validation/random_mask_error", "min", domains={"optim.weight_decay": tune.choice([0.0, 0.1])}
)


def swept(monkeypatch: pytest.MonkeyPatch, *flags: str) -> tuple[int, SearchSpace | None]:
    """Give the flags to the script; return its status, and the space that it would search."""
    found: list[SearchSpace] = []

    def look(space: SearchSpace, *_: object, **__: object) -> None:
        found.append(space)
        raise ValueError("far enough")

    monkeypatch.setattr(sys, "argv", ["sweep.py", *flags, "data.manifest=there.parquet"])
    monkeypatch.setattr(sweep_command, "sweep", look)
    return main(SPACE, description="Rates."), found[0] if found else None


def test_a_metric_with_its_mode_takes_the_place_of_the_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    _, space = swept(monkeypatch, "--metric", "probe/ridge_top1", "--mode", "max")
    assert space is not None
    assert (space.metric, space.mode, space.domains) == ("probe/ridge_top1", "max", SPACE.domains)
    assert swept(monkeypatch)[1] == SPACE


@pytest.mark.parametrize("flags", [("--metric", "probe/ridge_top1"), ("--mode", "max")])
def test_a_metric_without_its_mode_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: tuple[str, str]
) -> None:
    assert swept(monkeypatch, *flags) == (1, None)
    assert "--metric and --mode go together" in capsys.readouterr().err
