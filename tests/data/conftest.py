"""Videos whose every frame shows its own number, so that a test can read which frame it got."""

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

SIDE = 64
PIXELS = {"mjpeg": "yuvj420p", "gif": "rgb8"}  # what encoders take; all others take yuv420p


def draw_number(number: int) -> np.ndarray:
    """A picture of eight black or white blocks, the bits of the number."""
    bits = (number >> np.arange(8)) & 1
    return np.repeat(np.kron(255 * bits.reshape(2, 4), np.ones((32, 16)))[..., None], 3, axis=2).astype(np.uint8)


def _read_numbers(video: np.ndarray) -> list[int]:
    """The numbers of frames that were drawn whole, from frames [frames, size, size, 3] of any size."""
    size = video.shape[1]
    rows, columns = np.array([1, 3]) * size // 4, np.array([1, 3, 5, 7]) * size // 8
    bits = video[:, rows][:, :, columns].mean(-1).reshape(len(video), 8) > 128
    return (bits @ (1 << np.arange(8))).tolist()


def _count_video(
    path: Path,
    *,
    frames: int = 60,
    rate: Fraction = Fraction(25),
    ticks: Sequence[int] | None = None,
    codec: str = "libx264",
    gop: int = 12,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a numbered video; ``ticks`` are presentation times in frames at ``rate``, otherwise 0, 1, 2 ..."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width = stream.height = SIDE
        stream.pix_fmt = PIXELS.get(codec, "yuv420p")
        stream.gop_size = gop
        stream.codec_context.thread_count = 1
        for number, tick in enumerate(ticks or range(frames)):
            frame = av.VideoFrame.from_ndarray(draw_number(number), format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = tick, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def count_video() -> Callable[..., Path]:
    return _count_video


@pytest.fixture(scope="session")
def read_numbers() -> Callable[[np.ndarray], list[int]]:
    return _read_numbers


@pytest.fixture(scope="session")
def tar_of() -> Callable[[Path, Mapping[str, bytes]], Path]:
    """Write a tar file of such members."""

    def write(path: Path, members: Mapping[str, bytes]) -> Path:
        with tarfile.open(path, "w") as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def put(tmp_path):
    """Write files, by name; return their folder."""

    def write(files: dict[str, str], folder: str = "split") -> Path:
        for name, text in files.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text, newline="")
        return tmp_path / folder

    return write
