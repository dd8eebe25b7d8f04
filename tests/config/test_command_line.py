import re
from pathlib import Path

import pytest

from tats_ray.config.command_line import make_parser, resolve
from tats_ray.config.files import to_yaml
from tats_ray.config.overrides import ConfigError, knobs
from tats_ray.config.run import TrainRun
from tats_ray.recipes import RECIPES, recipe


def parsed(*arguments: str) -> TrainRun:
    return resolve(make_parser("Train.", RECIPES, default="tiny").parse_intermixed_args(list(arguments)), recipe)


def test_help_lists_every_recipe_and_every_knob(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "600")
    with pytest.raises(SystemExit) as left:
        parsed("--help")
    shown = capsys.readouterr().out
    assert left.value.code == 0
    for name, make in RECIPES.items():
        assert re.search(rf"^  {name} +{re.escape(str(make.__doc__).splitlines()[0])}$", shown, re.MULTILINE), name
    for knob in knobs(recipe("tiny")):
        default = "null" if knob.default is None else str(knob.default)
        cells = (knob.path, knob.type, default, " ".join(knob.meaning.split()))
        assert re.search(" +".join(re.escape(cell) for cell in cells) + " *$", shown, re.MULTILINE), knob.path


def test_help_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parsed("--help")
    table = capsys.readouterr().out.partition("knobs:")[2]
    assert max(len(line) for line in table.splitlines()) <= 80


def test_a_run_is_composed_from_recipe_or_file_and_overrides(tmp_path: Path) -> None:
    assert parsed() == recipe("tiny")
    assert parsed("--recipe", "adamae-base") == recipe("adamae-base")
    mixed = parsed("seed=3", "--recipe", "tats-small", "name=mine")
    assert mixed == recipe("tats-small").model_copy(update={"seed": 3, "name": "mine"})
    (tmp_path / "run.yaml").write_text(to_yaml(recipe("videomae-base")))
    from_file = parsed("--config", str(tmp_path / "run.yaml"), "seed=3")
    assert from_file == recipe("videomae-base").model_copy(update={"seed": 3})


def test_a_recipe_beside_a_file_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        parsed("--recipe", "tats-base", "--config", str(tmp_path / "run.yaml"))
    assert left.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_what_is_wrong_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="there is no recipe"):
        parsed("--recipe", "none")
    with pytest.raises(ConfigError, match="there is no knob"):
        parsed("none=1")
