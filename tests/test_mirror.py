"""Copies of what lies in a store: in fsspec's memory, in pyarrow's local filesystem, and on a disk as before."""

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tats_ray import claims, copies, mirror
from tats_ray.claims import leased, new_number
from tats_ray.copies import MirrorError, path_of, uri_of, where


@pytest.fixture(autouse=True)
def _copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TATS_COPIES", str(tmp_path / "copies"))
    monkeypatch.setattr(mirror, "WAITS", (0.0, 0.0))


def place(kind: str, tmp_path: Path) -> Path:
    """A folder of results that nobody has used."""
    places = {
        "memory": f"memory://{uuid.uuid4().hex}/results",
        "local": f"local://{tmp_path}/store",
        "disk": f"{tmp_path}/disk",
    }
    return path_of(places[kind])


@pytest.fixture(params=["memory", "local", "disk"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return place(request.param, tmp_path)


@pytest.fixture(params=["memory", "local"])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """In a store, which has neither folders nor locks."""
    return place(request.param, tmp_path)


class Faulty(MemoryFileSystem):
    """Refuses some writes."""

    protocol = ("faulty",)
    store: dict[str, Any] = {}  # noqa: RUF012 (as fsspec has it)
    pseudo_dirs = [""]  # noqa: RUF012
    cachable = False
    refuse: Callable[[str], bool] = staticmethod(lambda path: False)
    opened: list[str] = []  # noqa: RUF012

    def _open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        if "w" in mode:
            Faulty.opened.append(path)
            if Faulty.refuse(path):
                raise OSError("the store is away")
        return super()._open(path, mode, **more)


@pytest.fixture
def faulty() -> Iterator[Path]:
    """A folder of results in a store that refuses what ``Faulty.refuse`` says."""
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    copies._filesystem.cache_clear()
    yield path_of(f"faulty://{uuid.uuid4().hex}/results")
    Faulty.refuse = staticmethod(lambda path: False)
    Faulty.opened.clear()


@pytest.mark.parametrize(
    ("uri", "copy"),
    [
        ("s3://bucket/results", "s3%3A%2F%2Fbucket/results"),
        ("s3://bucket", "s3%3A%2F%2Fbucket"),
        (
            "s3://bucket/a?endpoint_override=h:1&scheme=http",
            "s3%3A%2F%2Fbucket%3Fendpoint_override%3Dh%3A1%26scheme%3Dhttp/a",
        ),
        ("abfs://box@account.dfs.core.windows.net/a", "abfs%3A%2F%2Fbox%40account.dfs.core.windows.net/a"),
        ("local:///tmp/x", "local%3A%2F%2F/tmp/x"),
    ],
)
def test_a_path_says_of_which_uri_it_is_the_copy(uri: str, copy: str, tmp_path: Path) -> None:
    path = path_of(uri)
    assert path == tmp_path / "copies" / copy
    assert (uri_of(path) or "").rstrip("/") == uri
    address, mark, query = uri.partition("?")
    assert where(path / "tiny" / "0001") == f"{address}/tiny/0001{mark}{query}"
    assert path_of(where(path / "tiny")) == path / "tiny"


def test_a_folder_of_this_machine_is_itself(tmp_path: Path) -> None:
    assert path_of(f"file://{tmp_path}") == path_of(str(tmp_path)) == tmp_path
    assert uri_of(tmp_path) is None
    assert where(tmp_path) == str(tmp_path)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(MirrorError, match=r"^s3://bucket/results was given with a password") as refused:
        path_of("s3://someone:geheim@bucket/results")
    assert "geheim" not in str(refused.value)
    assert "someone" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "reason"), [("nosuch://a/b", "Protocol not known: nosuch"), ("sftp://u@h/p", "paramiko")]
)
def test_a_kind_of_uri_that_is_not_known_or_lacks_its_package_is_named(uri: str, reason: str) -> None:
    with pytest.raises(MirrorError, match=rf"{reason}.* install the fsspec package"):
        mirror.check(path_of(uri))


def test_small_files_are_read_from_where_the_truth_is(root: Path) -> None:
    mirror.check(root)
    assert not mirror.exists(root / "a" / "x.json")
    with pytest.raises(FileNotFoundError):
        mirror.read_text(root / "a" / "x.json")
    mirror.write_text(root / "a" / "x.json", "one")
    assert mirror.exists(root / "a" / "x.json")
    assert mirror.exists(root / "a")
    assert mirror.read_text(root / "a" / "x.json") == "one"
    assert [str(path) for path in mirror.listed(root)] == ["a"]
    assert [str(path) for path in mirror.listed(root, depth=2)] == ["a", "a/x.json"]
    assert mirror.listed(root / "none") == []
    if uri_of(root) is not None:
        (root / "a" / "x.json").write_text("not the truth")
        assert mirror.read_text(root / "a" / "x.json") == "one"


def test_a_folder_goes_there_and_back_without_what_is_hidden(far: Path) -> None:
    for name in ("b/c/x", "b/y", "b/.partial_z/x", "b/.hidden"):
        (far / name).parent.mkdir(parents=True, exist_ok=True)
        (far / name).write_text(name)
    mirror.send(far / "b")
    mirror.send(far / "none")
    for name in ("b/c/x", "b/y", "b/.partial_z/x", "b/.hidden"):
        (far / name).unlink()
    assert mirror.fetch(far / "b")
    assert {str(p.relative_to(far)): p.read_text() for p in far.rglob("*") if p.is_file()} == {
        "b/c/x": "b/c/x",
        "b/y": "b/y",
    }
    (far / "b" / "y").write_text("changed")
    assert mirror.have(far / "b" / "y")
    assert (far / "b" / "y").read_text() == "changed"  # what never changes is not brought again
    assert not mirror.fetch(far / "none")
    assert not mirror.have(far / "none")


def test_what_is_removed_is_gone_in_both_places(root: Path) -> None:
    for name in ("x", "y"):
        mirror.write_text(root / "b" / name, name)
    mirror.write_text(root / "kept", "kept")
    mirror.remove(root / "b", first="y")
    mirror.remove(root / "b")
    assert not mirror.exists(root / "b")
    assert not (root / "b").exists()
    assert [str(path) for path in mirror.listed(root, depth=3)] == ["kept"]


def test_the_last_file_is_sent_when_the_others_are_there(faulty: Path) -> None:
    for name in ("a", "index", "z"):
        (faulty / "c").mkdir(parents=True, exist_ok=True)
        (faulty / "c" / name).write_text(name)
    mirror.send(faulty / "c", last="index")
    assert [path.rpartition("/")[2] for path in Faulty.opened] == ["a", "z", "index"]


def test_a_refusal_is_tried_again_and_then_told(faulty: Path) -> None:
    left = [2]

    def refuse(path: str) -> bool:
        left[0] -= 1
        return left[0] >= 0

    Faulty.refuse = staticmethod(refuse)
    mirror.write_text(faulty / "x", "came through at the third try")
    assert mirror.read_text(faulty / "x") == "came through at the third try"
    Faulty.refuse = staticmethod(lambda path: True)
    with pytest.raises(
        MirrorError, match=r"faulty://\w+/results/y cannot be written: the store is away \(tried 3 times"
    ):
        mirror.write_text(faulty / "y", "never")
    with pytest.raises(MirrorError, match="does not take a file and give it back: the store is away"):
        mirror.check(faulty / "elsewhere")


def test_last_words_do_not_wait_for_a_store_and_stay_here(faulty: Path, caplog: pytest.LogCaptureFixture) -> None:
    Faulty.refuse = staticmethod(lambda path: True)
    mirror.write_text(faulty / "error.log", "why", insist=False)
    assert len(Faulty.opened) == 1
    assert (faulty / "error.log").read_text() == "why"
    assert "the store is away" in caplog.text


def test_numbers_count_on_and_are_had_once(root: Path) -> None:
    assert [new_number(root / "tiny").name for _ in range(3)] == ["0001", "0002", "0003"]
    mirror.write_text(root / "tiny" / "0007" / "x", "")
    assert new_number(root / "tiny").name == "0008"


def test_a_number_that_another_machine_wants_at_the_same_time_is_left(
    far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, name = copies.store_of(far / "tiny" / "0001")  # type: ignore[misc]
    put = claims._put
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def put_after_another(files_: Any, path: str, number: int) -> None:
        monkeypatch.setattr(claims, "_put", put)
        put(files, f"{name}/.claim_of_another", 0)
        put(files_, path, number)

    monkeypatch.setattr(claims, "_put", put_after_another)
    assert new_number(far / "tiny").name in ("0001", "0002")
    others = claims._objects(files, name)
    assert f"{name}/.claim_of_another" in others
    assert len(others) == 1  # ours was taken back


def test_a_name_is_held_until_the_block_ends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with leased(root / ".locks" / "tiny.lease") as held:
        assert held
        if uri_of(root) is not None:
            monkeypatch.setattr(claims, "_machine", lambda folder: "another")
            with leased(root / ".locks" / "tiny.lease", wait=False) as second:
                assert not second
            store = copies.store_of(root / ".locks" / "tiny.lease")
            assert store is not None
            assert len(claims._objects(*store)) == 1  # who did not get it takes its own back
    with leased(root / ".locks" / "tiny.lease", wait=False) as held:
        assert held


def test_a_holder_that_is_alive_is_told_from_one_that_is_gone(far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = far / ".locks" / "tiny.lease"
    mine = claims._machine(name)
    with monkeypatch.context() as patch:
        patch.setattr(claims, "RENEW_SECONDS", 0.05)
        patch.setattr(claims, "GONE_SECONDS", 60.0)
        with leased(name):
            patch.setattr(claims, "_machine", lambda folder: "another")
            with leased(name) as held:
                assert not held
    files, there = copies.store_of(name)  # type: ignore[misc]
    claims._put(files, f"{there}/of_one_that_was_killed", 3)
    monkeypatch.setattr(claims, "GONE_SECONDS", 0.3)
    with leased(name) as held:
        assert held
        assert claims._objects(files, there) == [f"{there}/{mine}"]


def test_what_this_machine_left_behind_is_its_own_again(far: Path) -> None:
    name = far / ".locks" / "tiny.lease"
    store = copies.store_of(name)
    assert store is not None
    claims._put(store[0], f"{store[1]}/{claims._machine(name)}", 7)
    with leased(name, wait=False) as held:
        assert held
