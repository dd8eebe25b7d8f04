"""Difficult and broken files of the field: each gives exactly its frames or is refused with a reason, never else."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HARD = ROOT.parent / "shared" / "data" / "hard"
SECONDS = 120
MEMORY = 3 << 30
ROW = re.compile(r"\| `(?P<name>.+?)` \|.*\| (?P<expected>[^|]+) \|")


def expectations():
    """The table of the folder's README: each file, and what is expected of it."""
    if not (HARD / "README.md").is_file():
        return {}
    rows = (ROW.fullmatch(line) for line in (HARD / "README.md").read_text(encoding="utf-8").splitlines())
    return {row["name"]: row["expected"] for row in rows if row}


@pytest.mark.skipif(not expectations(), reason=f"the difficult files are not here: {HARD}")
def test_the_table_names_every_file():
    assert set(expectations()) == {path.name for path in HARD.iterdir()} - {"README.md"}


@pytest.mark.parametrize(("name", "expected"), expectations().items())
def test_hard_file(name, expected):
    found = outcome(HARD / name)
    refused = [key for key in ("verify", "probe", "decode") if isinstance(found.get(key), str)]
    for key in refused:
        assert re.fullmatch(r"[^\n]{10,200}", found[key]), f"no clear reason: {found}"
    if expected.startswith("must be refused"):
        assert refused == ["verify", "probe"], found
        return
    frames = int(re.search(r"decodes (\d+) frames?", expected)[1])
    if expected.startswith("damaged or ambiguous") and refused:
        assert {"verify", "decode"} <= {*refused} or refused == ["verify", "probe"], found  # both say the same
        return
    exactly = {"verify": frames, "probe": frames, "decode": frames, "wrong": [], "clips": True}
    assert found == exactly


def outcome(path):
    """Run one file in a process of its own, so that a crash or a hang of native code is pinned to it."""
    command = [sys.executable, str(Path(__file__).with_name("hard_file.py")), str(path), str(MEMORY)]
    paths = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        pytest.fail(f"{path.name} did not end within {SECONDS} s")
    if done.returncode < 0:
        pytest.fail(f"{path.name} crashed: {signal.Signals(-done.returncode).name}")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
