"""Real crashes, hangs and memory bombs in the decoding process: each costs its own video and leaves nothing behind."""

import gc
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tats_ray.data.decode import Crop, View, decode_views
from tats_ray.data.guard import GuardConfig, GuardedDecoder
from tats_ray.data.probe import probe_record
from tats_ray.data.source import DecodeError, VideoSource

sys.path.append(str(Path(__file__).parent))  # children get it too
import faults

SOON = 20.0  # seconds: a bound for what takes milliseconds, on a machine that is busy
NOWHERE = VideoSource("nowhere.mp4")
WHOLE = Crop(0, 0, 64, 64)


@pytest.fixture(scope="module")
def video(count_video: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> VideoSource:
    return VideoSource(str(count_video(tmp_path_factory.mktemp("guard") / "video.mp4", frames=40)))


@pytest.fixture
def decode() -> Iterator[GuardedDecoder]:
    with GuardedDecoder(GuardConfig(decode_seconds=SOON)) as decoder:
        yield decoder


def gone(pid: int) -> bool:
    """Whether a process ends within the time; one that is dead but not yet waited for has ended."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def written(path: Path) -> int:
    """The number that another process writes to a file."""
    deadline = time.monotonic() + SOON
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(path.read_text())


def fifo(folder: Path) -> VideoSource:
    """A file whose opening never ends."""
    os.mkfifo(folder / "hangs.mp4")
    return VideoSource(str(folder / "hangs.mp4"))


def bomb(folder: Path) -> VideoSource:
    """A picture of one pixel on a canvas of 16,000 by 16,000: its file has 43 bytes, its frame a gigabyte."""
    pixel = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    screen = struct.pack("<HHBBB", 16000, 16000, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    (folder / "bomb.gif").write_bytes(b"GIF89a" + screen + pixel + b";")
    return VideoSource(str(folder / "bomb.gif"))


def test_a_child_gives_what_this_process_gives(video: VideoSource, decode: GuardedDecoder) -> None:
    views = [View((0.0, 0.4, 1.2), WHOLE), View((0.2, 0.24), Crop(8, 4, 32, 40))]
    for size in (16, 224, 32):  # answers of every size share one memory
        here = decode_views(video, views, frame_size=(64, 64), size=size)
        there = decode(video, views, frame_size=(64, 64), size=size)
        assert [array.shape for array in there] == [(3, size, size, 3), (2, size, size, 3)]
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(here, there, strict=True))
        there[0][:] = 0  # the caller's own, to be written
    assert decode.call(probe_record, video, label=3) == probe_record(video, label=3)


def test_calls_of_a_thread_share_a_child_and_threads_share_none(decode: GuardedDecoder) -> None:
    mine = {decode.call(faults.pid, NOWHERE) for _ in range(3)}
    with ThreadPoolExecutor(1) as pool:
        theirs = {pool.submit(decode.call, faults.pid, NOWHERE).result() for _ in range(3)}
    assert len(mine) == len(theirs) == 1
    assert len(mine | theirs | {os.getpid()}) == 3
    assert gone(theirs.pop())  # with its thread
    assert decode.call(faults.pid, NOWHERE) in mine


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faults.crash, r"the decoder crashed \(SIGSEGV\)"),
        (faults.leave, r"the decoder crashed \(exit status 3\)"),
        (faults.swell, r"decoding needed more than data.decode_memory_mib=4096"),
    ],
)
def test_a_fault_costs_its_own_video(
    decode: GuardedDecoder, video: VideoSource, fault: Callable[[VideoSource], object], reason: str
) -> None:
    before = decode.call(faults.pid, NOWHERE)
    with pytest.raises(DecodeError, match=rf"^nowhere.mp4: {reason}$"):
        decode.call(fault, NOWHERE)
    assert gone(before)
    assert len(decode(video, [View((0.0,), WHOLE)], frame_size=(64, 64), size=16)) == 1


def test_a_hang_ends_in_time(tmp_path: Path, video: VideoSource) -> None:
    with GuardedDecoder(GuardConfig(decode_seconds=0.3)) as decode:
        pid = decode.call(faults.pid, NOWHERE)
        with pytest.raises(DecodeError, match=r"hangs.mp4: decoding took longer than data.decode_seconds=0.3$"):
            decode(fifo(tmp_path), [View((0.0,), WHOLE)], frame_size=(64, 64), size=16)
        assert gone(pid)
    with GuardedDecoder(GuardConfig(decode_seconds=SOON)) as decode:
        assert decode.call(probe_record, video, label=None).num_frames == 40


def test_a_memory_bomb_does_not_go_off(tmp_path: Path) -> None:
    source, views = bomb(tmp_path), [View((0.0,), Crop(0, 0, 16000, 16000))]
    with (
        GuardedDecoder(GuardConfig(decode_seconds=SOON, decode_memory_mib=1024)) as decode,
        pytest.raises(DecodeError, match=r"bomb.gif: decoding needed more than data.decode_memory_mib=1024$"),
    ):
        decode(source, views, frame_size=(16000, 16000), size=16)


def test_a_child_that_died_at_rest_is_replaced(decode: GuardedDecoder) -> None:
    first = decode.call(faults.pid, NOWHERE)
    os.kill(first, signal.SIGKILL)
    assert gone(first)
    assert decode.call(faults.pid, NOWHERE) != first


def test_a_child_minds_no_ctrl_c_and_says_nothing(decode: GuardedDecoder, capfd: pytest.CaptureFixture[str]) -> None:
    pid = decode.call(faults.pid, NOWHERE)
    assert os.getpgid(pid) != os.getpgrp()  # a terminal interrupts its whole group, even a child that just starts
    os.kill(pid, signal.SIGINT)
    decode.call(faults.shout, NOWHERE)
    assert decode.call(faults.pid, NOWHERE) == pid
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_caller_gets_no_stale_answer(decode: GuardedDecoder, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        pid = decode.call(faults.pid, NOWHERE)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            decode.call(faults.hang, VideoSource(str(tmp_path / "pid")))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert gone(pid)
    assert decode.call(faults.pid, NOWHERE) != pid


def test_leaving_the_decoder_ends_what_hangs(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with ThreadPoolExecutor(1) as pool:
        with GuardedDecoder(GuardConfig(decode_seconds=600)) as decode:
            hanging = pool.submit(decode.call, faults.hang, VideoSource(str(file)))
            pid = written(file)
        with pytest.raises(DecodeError):
            hanging.result(timeout=SOON)
    assert gone(pid)


def test_a_hanging_child_ends_with_its_parent(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = (
        "import faults\n"
        "from tats_ray.data.guard import GuardConfig, GuardedDecoder\n"
        "from tats_ray.data.source import VideoSource\n"
        f"GuardedDecoder(GuardConfig(decode_seconds=600)).call(faults.hang, VideoSource({str(file)!r}))\n"
    )
    path = os.pathsep.join(sys.path)
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    pid = written(file)
    parent.kill()
    parent.wait()
    assert gone(pid)


def test_errors_of_the_code_are_not_taken_for_bad_videos(decode: GuardedDecoder) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)nowhere.mp4 failed:.*in err.*ZeroDivisionError"):
        decode.call(faults.err, NOWHERE)
    with pytest.raises(DecodeError, match=r"^nowhere.mp4: No such file or directory$"):
        decode(NOWHERE, [View((0.0,), WHOLE)], frame_size=(64, 64), size=16)


def test_a_child_that_cannot_start_is_no_bad_video(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "av.py").write_text("raise ImportError('a broken installation')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RuntimeError, match=r"a decoding process did not start \(exit status 1\)"):
        GuardedDecoder(GuardConfig()).call(faults.pid, NOWHERE)


def test_children_are_light(decode: GuardedDecoder) -> None:
    assert not decode.call(faults.modules, NOWHERE) & {"torch", "pyarrow", "pydantic", "ray", "mlflow"}


def test_no_file_stays_open(decode: GuardedDecoder) -> None:
    def ask(function: Callable[[VideoSource], object]) -> None:
        with suppress(DecodeError):
            decode.call(function, NOWHERE)

    ask(faults.pid)
    gc.collect()  # what earlier tests left
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        ask(faults.crash)
        ask(faults.pid)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(ask, faults.pid).result()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
