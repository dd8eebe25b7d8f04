import re
import signal
from pathlib import Path

import pytest

from tats_ray.config.command_line import ended, knobs_parser, make_parser, parse, resolve
from tats_ray.config.files import to_yaml
from tats_ray.config.overrides import ConfigError, knobs
from tats_ray.config.run import TrainRun
from tats_ray.evaluation.knn import KNNConfig
from tats_ray.recipes import RECIPES, recipe


def parsed(*arguments: str) -> TrainRun:
    return resolve(parse(make_parser("Train.", RECIPES, default="tiny"), arguments), recipe)


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


def test_a_file_may_lie_in_a_store(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(to_yaml(recipe("videomae-base")))
    assert parsed("--config", f"local://{tmp_path}/run.yaml") == recipe("videomae-base")
    with pytest.raises(ConfigError, match=f"--config local://{tmp_path}/no.yaml cannot be read"):
        parsed("--config", f"local://{tmp_path}/no.yaml")


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


LISTED = ["--names", "a", "b", "seed=1", "--fresh", "name=mine", "--folder", "x=y"]


def test_overrides_may_stand_behind_a_list_and_a_flag_and_an_option_keeps_its_value() -> None:
    parser = knobs_parser("Do.", recipe("tiny"), usage="--names NAME [NAME ...]")
    parser.add_argument("--names", nargs="+")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--folder")
    found = parse(parser, LISTED)
    assert (found.names, found.fresh, found.folder) == (["a", "b"], True, "x=y")
    assert found.overrides == ["seed=1", "name=mine"]


def test_help_of_settings_lists_each_with_its_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse(knobs_parser("Do.", KNNConfig(), usage="--out DIR"), ["--help"])
    usage, _, table = capsys.readouterr().out.partition("knobs:")
    assert usage.splitlines()[0].endswith("--out DIR [path=value ...]")
    assert re.search(r"^neighbors +int +20 ", table, re.MULTILINE)
    assert max(len(line) for line in table.splitlines()) <= 80


def test_a_command_s_status_is_that_of_its_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(lambda: None, errors=(), again="") == 0
    assert ended(lambda: 1, errors=(), again="") == 1
    assert capsys.readouterr().err == ""


def raises(error: BaseException) -> int:
    raise error


def test_an_error_is_one_line_without_credentials_and_a_fault_is_raised(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ConfigError("no store at http://me:secret@host:5000")
    assert ended(lambda: raises(wrong), errors=(ConfigError, OSError), again="") == 1
    assert capsys.readouterr().err == "error: no store at http://host:5000\n"
    with pytest.raises(KeyError):
        ended(lambda: raises(KeyError("a")), errors=(ConfigError,), again="")


@pytest.mark.parametrize(
    ("number", "status", "how"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 143, "terminated"),
    ],
)
def test_a_signal_has_its_own_status(
    number: signal.Signals, status: int, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        signal.raise_signal(number)

    before = signal.getsignal(number)
    assert ended(work, errors=(), again="the same command goes on") == status
    assert capsys.readouterr().err == f"{how}; the same command goes on\n"
    assert signal.getsignal(number) is before
