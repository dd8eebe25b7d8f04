"""Cut a part out of a decoded frame and scale it to a square of RGB: upright, in the right colours, in one C pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import av.filter
import numpy as np
from av.video.frame import VideoFrame


@dataclass(frozen=True)
class Crop:
    """A rectangle of the upright frame with square pixels, in its pixels; ``(x, y)`` is the upper left corner."""

    x: int
    y: int
    width: int
    height: int

    def fits(self, frame_size: tuple[int, int]) -> bool:
        """Tell whether it lies within a frame of this width and height and is not empty."""
        width, height = frame_size
        return 0 <= self.x < self.x + self.width <= width and 0 <= self.y < self.y + self.height <= height


class Orientation(NamedTuple):
    """How a coded frame becomes an upright one: rows and columns change places, then it is mirrored."""

    transposed: bool = False
    mirrored: bool = False
    """Left for right."""
    flipped: bool = False
    """Top for bottom."""

    def turn(self, image: np.ndarray) -> np.ndarray:
        """Make a coded image [height, width, channels] upright, without a copy."""
        image = image.swapaxes(0, 1) if self.transposed else image
        return image[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


UPRIGHT = Orientation()


def orientation(frame: VideoFrame) -> Orientation:
    """Read how a frame is to be turned, from its display matrix; to the nearest quarter turn.

    The matrix, nine integers by rows, sends the coded place (p, q) to (a p + c q, b p + d q), with a, b, c, d its
    elements 0, 1, 3, 4; both axes point as in an image.
    """
    side_data = cast(Mapping[str, Any], frame.side_data)
    try:
        matrix = np.frombuffer(side_data["DISPLAYMATRIX"], np.int32)
    except KeyError:
        return UPRIGHT
    a, b, _, c, d = matrix[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transposed=True, mirrored=c < 0, flipped=b < 0)
    return Orientation(mirrored=a < 0, flipped=d < 0)


class Scaler:
    """Cuts one crop out of frames, whatever their shapes; there is a libavfilter graph for each shape."""

    def __init__(self, crop: Crop, *, frame_size: tuple[int, int], size: int) -> None:
        """Cut ``crop``, which refers to upright frames of ``frame_size``, as squares of ``size`` pixels."""
        self._crop, self._frame_size, self._size = crop, frame_size, size
        self._graphs: dict[tuple[object, ...], av.filter.Graph] = {}

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """Return the frame's crop as a uint8 RGB array [size, size, 3]."""
        upright = orientation(frame)
        # fmt: off
        shape = (
            frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, frame.interlaced_frame,
            upright,
        )
        # fmt: on
        if shape not in self._graphs:
            self._graphs[shape] = self._build(frame, upright)
        graph = self._graphs[shape]
        graph.vpush(frame)
        return upright.turn(graph.vpull().to_ndarray())

    def _build(self, frame: VideoFrame, upright: Orientation) -> av.filter.Graph:
        # An interlaced frame holds two moments in alternate lines. Woven together, whatever moves has combs for edges,
        # which a model would learn as texture. Its upper field alone is one moment.
        fields = [("field", "type=top")] if frame.interlaced_frame else []
        height = -(-frame.height // 2) if frame.interlaced_frame else frame.height
        x, y, wide, high = _coded(self._crop, self._frame_size, upright, width=frame.width, height=height)
        graph = av.filter.Graph()
        graph.threads = 1
        nodes = [
            (
                "buffer",
                f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
                f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
            ),
            *fields,
            ("crop", f"w={wide}:h={high}:x={x}:y={y}:exact=1"),
            ("scale", f"w={self._size}:h={self._size}:flags=bilinear"),
            ("format", "pix_fmts=rgb24"),
            ("buffersink", None),
        ]
        graph.link_nodes(*(graph.add(name, arguments) for name, arguments in nodes)).configure()
        return graph


def _coded(
    crop: Crop, frame_size: tuple[int, int], upright: Orientation, *, width: int, height: int
) -> tuple[int, int, int, int]:
    """Find the pixels x, y, width, height of a coded frame that an upright crop shows.

    Fractions of the upright frame are fractions of the coded one, so pixels that are not square need no thought.
    """
    across, down = frame_size
    left = across - crop.x - crop.width if upright.mirrored else crop.x
    top = down - crop.y - crop.height if upright.flipped else crop.y
    columns, rows = (left, crop.width, across), (top, crop.height, down)
    if upright.transposed:
        columns, rows = rows, columns
    (x, wide), (y, high) = _pixels(*columns, width), _pixels(*rows, height)
    return x, y, wide, high


def _pixels(start: int, length: int, whole: int, pixels: int) -> tuple[int, int]:
    """Scale a stretch of ``whole`` to so many pixels: its first one, and how many, at least one."""
    first = min((2 * start * pixels + whole) // (2 * whole), pixels - 1)
    end = (2 * (start + length) * pixels + whole) // (2 * whole)
    return first, max(1, end - first)
