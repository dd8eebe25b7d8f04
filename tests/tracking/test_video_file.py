from pathlib import Path

import av
import numpy as np
import pytest

from tats_ray.tracking.video_file import write_mp4


@pytest.mark.parametrize(("height", "width"), [(64, 96), (63, 97)])
def test_pages_come_back(tmp_path: Path, height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    # Blocks of 16 pixels: what lies finer is what YUV 4:2:0 and the quantiser take away.
    coarse = rng.integers(0, 256, (6, height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    pages = list(coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width])
    write_mp4(pages, tmp_path / "a.mp4", fps=12.5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert (stream.codec_context.name, stream.pix_fmt, float(stream.average_rate or 0)) == ("h264", "yuv420p", 12.5)
    assert len(frames) == 6
    for frame, page in zip(frames, pages, strict=True):
        assert frame.shape == (64, 96 if width == 96 else 98, 3)
        gap = np.abs(frame[:height, :width].astype(int) - page)
        assert gap.mean() < 8  # of 255; pages in another order differ by 85


def test_pixels_of_a_page_with_odd_sides_stay_where_they_are(tmp_path: Path) -> None:
    lines = np.full((63, 97, 3), 40, dtype=np.uint8)
    lines[::2] = 200  # grey, for colours are halved in size
    write_mp4([lines], tmp_path / "a.mp4", fps=8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        (frame,) = (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
    assert np.abs(frame[:63, :97].astype(int) - lines).max() < 40  # lines moved by half a pixel are off by 80
    assert np.abs(frame[63, :97].astype(int) - lines[62]).max() < 40


def test_no_pages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.mp4 needs at least one page"):
        write_mp4([], tmp_path / "a.mp4", fps=8)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_mp4([np.zeros((16, 16, 3), dtype=np.uint8)], tmp_path / "none" / "a.mp4", fps=8)
