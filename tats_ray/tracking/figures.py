"""Pictures of clips: sheets of labelled rows, animations, and tokens drawn over the frames.

A video is uint8 RGB ``[frames, height, width, 3]``; tokens are ordered as in ``TokenGrid``.
"""

import textwrap
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from tats_ray.geometry import TokenGrid

Video = NDArray[np.uint8]  # [frames, height, width, 3]

_MIN_SIDE = 96  # pixels a frame is shown at, at least
_GAP = 4
_MARGIN = 12
_LABEL_CHARACTERS = 16
_FONT_SIZE, _TITLE_SIZE, _LINE = 13, 15, 18
_PAPER, _INK, _PALE_INK = (255, 255, 255), (32, 32, 32), (120, 120, 120)
_GIF_COLOURS = 64  # four rows of 16 natural frames stay under 300 kB
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_DIMMED = 0.3
_HEAT_OPACITY = 0.6
_HEAT_FLOOR = 2.0


def labelled_rows(
    rows: Mapping[str, Video], *, title: str = "", scale: int | None = None, max_columns: int = 8
) -> Image.Image:
    """Draw a sheet: a row for each video with its label at the left, frames as columns with their numbers above.

    Args:
        rows: Videos of one shape by label, from top to bottom.
        title: A line above the sheet.
        scale: Whole factor by which frames are enlarged; None enlarges small ones to at least 96 pixels.
        max_columns: A longer video shows every second, third, ... frame, so that no more than this many are shown.

    Raises:
        ValueError: No rows, rows of different shape, or one that is no video.
    """
    videos = _enlarged(rows, scale)
    num_frames, height, width, _ = next(iter(videos.values())).shape
    frames = range(0, num_frames, -(-num_frames // max_columns))
    labels = {label: _wrapped(label, _LABEL_CHARACTERS) for label in videos}
    left = _MARGIN + _text_width(labels.values(), _FONT_SIZE) + _MARGIN
    top = _MARGIN + (_LINE + 2 * _GAP) * bool(title) + _LINE
    right = max(left + len(frames) * (width + _GAP) - _GAP, _MARGIN + _text_width([title], _TITLE_SIZE))
    sheet = Image.new("RGB", (right + _MARGIN, top + len(videos) * (height + _GAP) - _GAP + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=_font(_TITLE_SIZE))
    for column, frame in enumerate(frames):
        middle = left + column * (width + _GAP) + width // 2
        draw.text((middle, top - _GAP), str(frame), fill=_PALE_INK, font=_font(_FONT_SIZE), anchor="md")
    for row, (label, video) in enumerate(videos.items()):
        y = top + row * (height + _GAP)
        _draw_label(draw, (left - _MARGIN, y + height // 2), labels[label], anchor="rm")
        for column, frame in enumerate(frames):
            sheet.paste(Image.fromarray(video[frame]), (left + column * (width + _GAP), y))
    return sheet


def save_sheet(
    rows: Mapping[str, Video], path: Path, *, title: str = "", scale: int | None = None, max_columns: int = 8
) -> None:
    """Write ``labelled_rows`` as a PNG; the folder of ``path`` is made when it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labelled_rows(rows, title=title, scale=scale, max_columns=max_columns).save(path, format="PNG", optimize=True)


def animate(rows: Mapping[str, Video], path: Path, *, fps: float, scale: int | None = None) -> None:
    """Write an animated GIF of the videos side by side, each under its label; it loops for ever.

    Args:
        rows: Videos of one shape by label, from left to right.
        path: Where to write; its folder is made when it is missing.
        fps: Frames a second; a GIF rounds a frame's time to 10 ms.
        scale: As in ``labelled_rows``.

    Raises:
        ValueError: No rows, rows of different shape, one that is no video, or ``fps`` outside (0, 50].
    """
    if not 0 < fps <= 50:
        raise ValueError(f"fps must lie in (0, 50], which is what viewers of GIFs play, got {fps}")
    videos = _enlarged(rows, scale)
    num_frames, height, width, _ = next(iter(videos.values())).shape
    labels = [_wrapped(label, width // 8) for label in videos]
    top = _MARGIN + _LINE * max(label.count("\n") + 1 for label in labels)
    paper = Image.new("RGB", (2 * _MARGIN + len(videos) * (width + _GAP) - _GAP, top + height + _MARGIN), _PAPER)
    lefts = [_MARGIN + column * (width + _GAP) for column in range(len(videos))]
    for x, label in zip(lefts, labels, strict=True):
        _draw_label(ImageDraw.Draw(paper), (x + width // 2, top - _GAP), label, anchor="md")
    pages = [paper.copy() for _ in range(num_frames)]
    for x, video in zip(lefts, videos.values(), strict=True):
        for page, frame in zip(pages, video, strict=True):
            page.paste(Image.fromarray(frame), (x, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = _with_one_palette(pages)
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)


def heat_overlay(video: Video, token_values: ArrayLike, grid: TokenGrid) -> Video:
    """Lay a number for each token over the grey frames, dark for none, bright for much; each fills its tubelet.

    Values are taken relative to their mean, which for probabilities is the uniform share. The brightest colour stands
    for the largest, and for at least twice the mean: equal values look alike and middling, not all bright.

    Args:
        video: The clip, ``[frames, height, width, 3]``.
        token_values: ``[tokens]``, at least 0 and not all 0, such as probabilities or errors.
        grid: How the clip divides into tokens.

    Raises:
        ValueError: The values do not fit the grid or their range, or the grid does not divide the video.
    """
    values = np.asarray(token_values, dtype=np.float64)
    _check_grid(video, grid)
    if values.shape != (grid.num_tokens,):
        raise ValueError(f"token_values must have shape ({grid.num_tokens},), one for each token, got {values.shape}")
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() > 0):
        raise ValueError(
            f"token_values must be finite, at least 0 and not all 0, got {values.min()} to {values.max()}; "
            "give probabilities, not logits"
        )
    relative = values / values.mean()
    heat = _over_pixels(relative / max(relative.max(), _HEAT_FLOOR), video, grid)
    # inferno is perceptually uniform and starts at black, so that a token of weight 0 is a darker frame and no colour.
    colour = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    return _as_pixels(_HEAT_OPACITY * colour + (1 - _HEAT_OPACITY) * _grey(video))


def show_tokens(video: Video, token_idx: ArrayLike, grid: TokenGrid) -> Video:
    """Keep the pixels of the given tokens as they are, and dim all others to a dark grey.

    Args:
        video: The clip, ``[frames, height, width, 3]``.
        token_idx: ``[any number]`` of token numbers, in any order.
        grid: How the clip divides into tokens.

    Raises:
        ValueError: A token lies outside the grid, or the grid does not divide the video.
    """
    idx = np.asarray(token_idx, dtype=np.int64)
    _check_grid(video, grid)
    if idx.size and not (idx.min() >= 0 and idx.max() < grid.num_tokens):
        raise ValueError(f"token_idx must lie in [0, {grid.num_tokens}), got {idx.min()} to {idx.max()}")
    shown = np.zeros(grid.num_tokens, dtype=bool)
    shown[idx] = True
    return np.where(_over_pixels(shown, video, grid)[..., None], video, _as_pixels(_DIMMED * _grey(video)))


def _over_pixels(token_values: NDArray, video: Video, grid: TokenGrid) -> NDArray:
    """Spread ``[tokens]`` over ``[frames, height, width]``."""
    frames, height, width, _ = video.shape
    cells = token_values.reshape(grid.time, grid.height, grid.width)
    cells = cells.repeat(frames // grid.time, axis=0).repeat(height // grid.height, axis=1)
    return cells.repeat(width // grid.width, axis=2)


def _grey(video: Video) -> NDArray[np.float64]:
    return (video.astype(np.float64) @ _LUMA)[..., None]  # [frames, height, width, 1]


def _as_pixels(values: NDArray[np.float64]) -> Video:
    return values.round().clip(0, 255).astype(np.uint8)


def _check_grid(video: Video, grid: TokenGrid) -> None:
    _check_video(video, "video")
    frames, height, width, _ = video.shape
    if frames % grid.time or height % grid.height or width % grid.width:
        raise ValueError(f"video of {frames} frames of {height}x{width} pixels does not divide into {grid}")


def _check_video(video: Video, name: str) -> None:
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or not video.size:
        raise ValueError(
            f"{name} must be uint8 [frames, height, width, 3] and not empty, got {video.dtype} {list(video.shape)}"
        )


def _enlarged(rows: Mapping[str, Video], scale: int | None) -> dict[str, Video]:
    """Repeat pixels: they are the data, and a smooth enlargement would show what is not there."""
    for label, video in rows.items():
        _check_video(video, f"rows[{label!r}]")
    shapes = {video.shape for video in rows.values()}
    if len(shapes) != 1:
        raise ValueError(f"rows must be one or more videos of one shape, got {sorted(shapes)}")
    (shape,) = shapes
    factor = scale if scale is not None else max(1, -(-_MIN_SIDE // min(shape[1:3])))
    if factor < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    return {label: video.repeat(factor, axis=1).repeat(factor, axis=2) for label, video in rows.items()}


def _with_one_palette(pages: list[Image.Image]) -> list[Image.Image]:
    """Reduce colours together and without dither: what does not move then costs nothing, and does not flicker."""
    strip = Image.new("RGB", (pages[0].width, pages[0].height * len(pages)))
    for number, page in enumerate(pages):
        strip.paste(page, (0, number * page.height))
    palette = strip.quantize(_GIF_COLOURS, method=Image.Quantize.MEDIANCUT)
    return [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]


def _wrapped(label: str, characters: int) -> str:
    return "\n".join(textwrap.wrap(label, characters)) or " "


def _draw_label(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, *, anchor: str) -> None:
    align = "right" if anchor.startswith("r") else "center"
    draw.text(at, text, fill=_INK, font=_font(_FONT_SIZE), anchor=anchor, align=align)


def _text_width(texts: Iterable[str], size: int) -> int:
    return max(int(_font(size).getlength(line)) + 1 for text in texts for line in (text.splitlines() or [""]))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: Pillow's own lacks most of Unicode, and file names have it."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
