import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tats_ray.tracking import unsent
from tats_ray.tracking.unsent import Unsent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "unsent.jsonl"


def numbers(entries: list[dict]) -> list[int]:
    return [entry["n"] for entry in entries]


def take_all(waiting: Unsent) -> list[int]:
    found = []
    while entries := waiting.read(7):
        found += numbers(entries)
        waiting.take_off()
    return found


def test_entries_stay_until_they_are_taken_off_and_then_the_file_goes(path: Path) -> None:
    waiting = Unsent(path)
    for n in range(5):
        waiting.append({"n": n})
    assert numbers(waiting.read(2)) == numbers(waiting.read(2)) == [0, 1]
    waiting.take_off()
    assert numbers(waiting.read(9)) == [2, 3, 4]
    waiting.append({"n": 5})
    waiting.take_off()  # of what was read, and 5 was not
    assert path.exists()
    assert numbers(waiting.read(9)) == [5]
    waiting.take_off()
    assert not path.exists()
    assert waiting.read(9) == []


def test_another_reader_finds_all_and_may_send_it_first(path: Path) -> None:
    first, second = Unsent(path), Unsent(path)
    for n in range(3):
        first.append({"n": n})
    assert numbers(first.read(2)) == [0, 1]
    assert take_all(second) == [0, 1, 2]
    first.append({"n": 3})  # into a new file, of which the old place means nothing
    first.take_off()
    assert take_all(first) == [3]
    assert not path.exists()


def test_an_entry_outlives_its_process(path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from tats_ray.tracking.unsent import Unsent;"
        "Unsent(Path(sys.argv[1])).append({'n': 7}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, path], check=False, timeout=60)
    assert take_all(Unsent(path)) == [7]


def test_nothing_is_lost_between_one_who_writes_and_one_who_removes(path: Path) -> None:
    total = 400
    writing, reading = Unsent(path), Unsent(path)

    def write() -> None:
        for n in range(total):
            writing.append({"n": n})

    thread = threading.Thread(target=write)
    thread.start()
    found: list[int] = []
    while thread.is_alive() or path.exists():
        found += take_all(reading)
    assert found == list(range(total))


def test_while_the_file_cannot_be_written_entries_wait_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unsent, "MAX_IN_MEMORY", 3)
    waiting = Unsent(tmp_path / "gone" / "unsent.jsonl")
    for n in range(5):
        waiting.append({"n": n})
    assert (waiting.lost, waiting.waiting) == (2, True)
    assert len(caplog.records) == 1
    assert "gone/unsent.jsonl cannot be written" in caplog.text
    (tmp_path / "gone").mkdir()
    waiting.append({"n": 5})
    assert take_all(waiting) == [3, 4, 5]
    assert (waiting.lost, waiting.waiting) == (3, False)


def test_a_disk_that_is_full_halfway_leaves_no_torn_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Unsent(path)
    waiting.append({"n": 0})
    write, calls = os.write, []

    def full(file: int, content: bytes) -> int:
        calls.append(content)
        if len(calls) == 1:
            return write(file, content[:3])
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        waiting.append({"n": 1})
    assert path.read_bytes() == b'{"n": 0}\n'
    waiting.flush()
    assert take_all(waiting) == [0, 1]


def test_a_line_torn_by_a_crash_costs_itself_alone(path: Path) -> None:
    waiting = Unsent(path)
    waiting.append({"n": 0})
    with path.open("ab") as file:
        file.write(b'{"n": 1')
    assert numbers(waiting.read(9)) == [0]
    waiting.append({"n": 2})
    assert take_all(waiting) == [0, 2]
    assert waiting.lost == 1
