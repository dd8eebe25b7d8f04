"""The thread that sends, with a store that does as it is told; ``test_store_away.py`` has the real one."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tats_ray.tracking import writer
from tats_ray.tracking.writer import BackgroundTracker, Point

PATIENCE = 20.0  # seconds that no test needs


class FakeStore:
    """Keeps what it is sent, and fails or hangs when told so."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.files: list[tuple[str, str]] = []
        self.largest = 0
        self.away = self.lose_answers = self.refuse_files = False
        self.asked, self.stored = threading.Event(), threading.Event()
        self.open = threading.Event()
        self.open.set()

    def last_steps(self) -> Mapping[str, int]:
        self._answer()
        return {point.name: point.step for point in self.points}

    def send_points(self, points: Sequence[Point]) -> None:
        self._answer()
        self.largest = max(self.largest, len(points))
        self.points += [point for point in points if point not in self.points]
        if self.lose_answers:
            raise OSError("the answer got lost")
        self.stored.set()

    def send_file(self, path: Path, folder: str) -> None:
        self._answer()
        if self.refuse_files:
            raise OSError("disk full")
        self.files.append((path.name, folder))

    def _answer(self) -> None:
        self.asked.set()
        assert self.open.wait(PATIENCE)
        if self.away:
            raise OSError("http://me:hunter2@host is away")

    def history(self, name: str = "loss") -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.points if point.name == name]


@pytest.fixture
def store() -> Iterator[FakeStore]:
    store = FakeStore()
    yield store
    store.open.set()


def tracker(store: FakeStore, folder: Path, **times: float) -> BackgroundTracker:
    return BackgroundTracker(store, run_id="r", folder=folder, **{"retry_seconds": 0.01, **times})


def log(own: BackgroundTracker, steps: range) -> None:
    for step in steps:
        own.log_metrics({"loss": float(step)}, step=step)


def points(steps: range) -> list[tuple[int, float]]:
    return [(step, float(step)) for step in steps]


def test_nobody_waits_for_a_store_that_hangs(store: FakeStore, tmp_path: Path) -> None:
    store.open.clear()  # opened by this thread alone: a call that waited for the store would never return
    own = tracker(store, tmp_path, close_seconds=0.01)
    log(own, range(1))
    assert store.asked.wait(PATIENCE)
    log(own, range(1, 300))
    (tmp_path / "a.png").write_bytes(b"picture")
    own.log_file(tmp_path / "a.png", folder="pictures")
    own.close()
    assert not store.points
    store.open.set()
    own._thread.join(PATIENCE)
    assert store.history() == points(range(300))
    assert store.files == [("a.png", "pictures")]
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_what_an_outage_kept_is_sent_when_the_store_is_back(
    store: FakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = tracker(store, tmp_path)
    log(own, range(2))
    assert store.stored.wait(PATIENCE)
    store.away = True
    log(own, range(2, 5))
    store.asked.clear()
    assert store.asked.wait(PATIENCE)  # and was refused
    store.stored.clear()
    store.away = False
    assert store.stored.wait(PATIENCE)  # without another point, and without an end
    own.close()
    assert store.history() == points(range(5))
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert warnings[0] == (
        f"MLflow does not take run r's points (http://host is away); they wait in {tmp_path}/unsent.jsonl and training "
        "goes on"
    )


def test_what_the_end_leaves_is_told_and_sent_by_the_next_process(
    store: FakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.away = True
    own = tracker(store, tmp_path)
    log(own, range(3))
    own.close()
    assert f"lacks what waits in {tmp_path}/unsent*.jsonl" in caplog.text
    assert "hunter2" not in caplog.text + (tmp_path / "unsent.jsonl").read_text()
    store.away = False
    resumed = tracker(store, tmp_path)
    log(resumed, range(1, 5))  # a stretch is trained again
    resumed.close()
    assert store.history() == points(range(5))
    assert not list(tmp_path.iterdir())


def test_a_point_whose_answer_got_lost_is_not_doubled(store: FakeStore, tmp_path: Path) -> None:
    store.lose_answers = True
    own = tracker(store, tmp_path)
    log(own, range(3))
    own.close()
    store.lose_answers = False
    resumed = tracker(store, tmp_path)
    resumed.close()
    assert store.history() == points(range(3))


def test_steps_of_each_metric_strictly_increase(store: FakeStore, tmp_path: Path) -> None:
    store.points = [Point("loss", 0.0, 0, 30), Point("validation", 0.0, 0, 20)]
    own = tracker(store, tmp_path)
    for step in (20, 30, 30, 40, 40):
        own.log_metrics({"loss": float(step), "validation": float(step)}, step=step)
    own.close()
    assert store.history("loss")[1:] == [(40, 40.0)]
    assert store.history("validation")[1:] == [(30, 30.0), (40, 40.0)]


def test_a_file_that_is_refused_does_not_hold_up_the_points(
    store: FakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.refuse_files = True
    (tmp_path / "a.png").write_bytes(b"picture")
    own = tracker(store, tmp_path)
    own.log_file(tmp_path / "a.png", folder="pictures")
    log(own, range(2))
    own.close()
    assert store.history() == points(range(2))
    assert "disk full" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "unsent_files.jsonl"]


def test_a_file_that_went_before_it_was_sent_is_counted(
    store: FakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.away = True
    (tmp_path / "a.png").write_bytes(b"picture")
    own = tracker(store, tmp_path)
    own.log_file(tmp_path / "a.png", folder="pictures")
    (tmp_path / "a.png").unlink()
    store.away = False
    own.close()
    assert "lacks 1 points and files that could not be kept" in caplog.text


def test_a_long_outage_is_sent_in_requests_that_the_store_takes(
    store: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_CALLS_AT_ONCE", 4)
    monkeypatch.setattr(writer, "_POINTS_AT_ONCE", 5)
    store.away = True
    own = tracker(store, tmp_path)
    for step in range(10):
        own.log_metrics({"a": 0.0, "b": 1.0}, step=step)
    store.away = False
    own.close()
    assert (len(store.points), store.largest) == (20, 5)
    assert [point.step for point in store.points if point.name == "a"] == list(range(10))


def test_without_a_folder_to_write_to_points_are_kept_in_memory_up_to_a_bound(
    store: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tats_ray.tracking.unsent.MAX_IN_MEMORY", 3)
    own = tracker(store, tmp_path / "gone")
    log(own, range(5))
    (tmp_path / "gone").mkdir()
    own.close()
    assert store.history() == points(range(2, 5))
    assert "lacks 2 points and files that could not be kept" in caplog.text


def test_a_missing_file_is_refused_at_once(store: FakeStore, tmp_path: Path) -> None:
    own = tracker(store, tmp_path)
    with pytest.raises(ValueError, match=f"existing file, got {tmp_path}/none.png"):
        own.log_file(tmp_path / "none.png", folder="pictures")
    own.close()
