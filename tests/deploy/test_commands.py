"""Every command of the pages is one that there is, and our scripts take its arguments."""

import re
import shlex
from pathlib import Path

import pytest

from pipelines import pretrain

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "deploy" / "README.md")
SCRIPT = re.compile(r"(?:/home/ray/tats_ray/)?((?:pipelines|tune_spaces|deploy)/\w+\.py)$")


def commands(page: Path) -> list[list[str]]:
    """Return the words of every command of a page that runs a script of ours, after the script's name."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            where = [number for number, word in enumerate(words) if SCRIPT.search(word)]
            if where:
                found.append(words[where[0] :])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_scripts_exist_and_runs_are_possible(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands(page)
    assert found
    for script, *arguments in found:
        path = SCRIPT.search(script)[1]
        assert (ROOT / path).is_file(), script
        if path == "pipelines/pretrain.py" and not {"--help", "--dry-run", "--check"} & set(arguments):
            assert pretrain.main([*arguments, "--dry-run"]) == 0, arguments
    capsys.readouterr()


def test_files_that_the_page_names_exist() -> None:
    text = (ROOT / "deploy" / "README.md").read_text()
    named = set(re.findall(r"\bdeploy/[\w./-]*\w", text)) - {"deploy/.env"}
    assert {"deploy/compose.yaml", "deploy/cluster.yaml", "deploy/Dockerfile"} <= named
    for path in named:
        assert (ROOT / path).exists(), path
