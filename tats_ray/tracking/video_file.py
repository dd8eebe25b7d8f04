"""Drawn pages as an MP4 file that every browser and editor plays."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_CRF = "16"  # of 0 (lossless) to 51: thin lines and small letters stay sharp


def write_mp4(pages: Sequence[np.ndarray], path: Path, *, fps: float) -> None:
    """Write pages as H.264 in the one pixel format that every player knows, YUV 4:2:0.

    Its sides are even: a page of an odd side gets its last row or column twice.

    Args:
        pages: One or more of one shape, uint8 RGB ``[height, width, 3]``.
        path: The file to write; its folder exists.
        fps: Pages a second.

    Raises:
        ValueError: There is no page.
        OSError: The file cannot be written.
    """
    if not pages:
        raise ValueError(f"{path} needs at least one page")
    height, width, _ = pages[0].shape
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as out:
        stream = out.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": _CRF})
        stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
        for page in pages:
            even = np.pad(page, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            out.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        out.mux(stream.encode(None))
