"""Pictures of clips: sheets of labelled rows, and animations.

A video is uint8 RGB ``[frames, height, width, 3]``.
"""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tats_ray.tracking.overlays import ColourScale, Video, check_video, legend
from tats_ray.tracking.video_file import write_mp4

Footer = Sequence[str | ColourScale]
"""Lines below the frames: a sentence, or the colours of a scale with their values."""

_MIN_SIDE = 96  # pixels a frame is shown at, at least
_GAP = 4
_MARGIN = 12
_LABEL_CHARACTERS = 16
_FONT_SIZE, _TITLE_SIZE, _LINE = 13, 15, 18
_PAPER, _INK, _PALE_INK = (255, 255, 255), (32, 32, 32), (120, 120, 120)
_PARTS = re.compile(r"(\s+|(?<=[_-])(?=\w))")
_BAR_WIDTH, _BAR_HEIGHT = 160, 12


def labelled_rows(
    rows: Mapping[str, Video],
    *,
    title: str = "",
    scale: int | None = None,
    max_columns: int = 8,
    footer: Footer = (),
) -> Image.Image:
    """Draw a sheet: a row for each video with its label at the left, frames as columns with their numbers above.

    Args:
        rows: Videos of one shape by label, from top to bottom.
        title: A line above the sheet.
        scale: Whole factor by which frames are enlarged; None enlarges small ones to at least 96 pixels.
        max_columns: A longer video shows every second, third, ... frame, so that no more than this many are shown.
        footer: Lines below the sheet.

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
    right = max(right, _MARGIN + _footer_width(footer))
    bottom = top + len(videos) * (height + _GAP) - _GAP
    sheet = Image.new("RGB", (right + _MARGIN, bottom + _footer_height(footer) + _MARGIN), _PAPER)
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
    _draw_footer(sheet, (min(left, right - _footer_width(footer)), bottom), footer)
    return sheet


def save_sheet(
    rows: Mapping[str, Video],
    path: Path,
    *,
    title: str = "",
    scale: int | None = None,
    max_columns: int = 8,
    footer: Footer = (),
) -> None:
    """Write ``labelled_rows`` as a PNG; the folder of ``path`` is made when it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = labelled_rows(rows, title=title, scale=scale, max_columns=max_columns, footer=footer)
    sheet.save(path, format="PNG", optimize=True)


def animate(
    rows: Mapping[str, Video],
    path: Path,
    *,
    fps: float,
    scale: int | None = None,
    max_columns: int = 6,
    footer: Footer = (),
    colours: int = 64,
) -> None:
    """Write an animation of the videos side by side, each under its label: a GIF that loops for ever, or an MP4.

    Args:
        rows: Videos of one shape by label, from left to right.
        path: Where to write, a name that ends in ``.gif`` or ``.mp4``; its folder is made when it is missing.
        fps: Frames a second; a GIF rounds a frame's time to 10 ms.
        scale: As in ``labelled_rows``.
        max_columns: More videos go on below.
        footer: Lines below the videos.
        colours: Of a GIF, 2 to 256; four rows of 16 natural frames stay under 300 kB with 64.

    Raises:
        ValueError: No rows, rows of different shape, one that is no video, ``fps`` outside (0, 50], or another suffix.
    """
    if not 0 < fps <= 50:
        raise ValueError(f"fps must lie in (0, 50], which is what viewers of GIFs play, got {fps}")
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"path must end in .gif or .mp4, got {path}")
    pages = _pages(_enlarged(rows, scale), max_columns=max_columns, footer=footer)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4":
        write_mp4([np.asarray(page) for page in pages], path, fps=fps)
        return
    first, *rest = _with_one_palette(pages, colours)
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)


def _pages(videos: Mapping[str, Video], *, max_columns: int, footer: Footer) -> list[Image.Image]:
    num_frames, height, width, _ = next(iter(videos.values())).shape
    labels = [_wrapped(label, width // 8) for label in videos]
    label_height = _LINE * max(label.count("\n") + 1 for label in labels)
    columns, lines = min(len(videos), max_columns), -(-len(videos) // max_columns)
    right = max(_MARGIN + columns * (width + _GAP) - _GAP, _MARGIN + _footer_width(footer))
    bottom = lines * (_MARGIN + label_height + height)
    paper = Image.new("RGB", (right + _MARGIN, bottom + _footer_height(footer) + _MARGIN), _PAPER)
    places = []
    for number, label in enumerate(labels):
        line, column = divmod(number, max_columns)
        x = _MARGIN + column * (width + _GAP)
        y = (line + 1) * (_MARGIN + label_height) + line * height
        _draw_label(ImageDraw.Draw(paper), (x + width // 2, y - _GAP), label, anchor="md")
        places.append((x, y))
    _draw_footer(paper, (_MARGIN, bottom), footer)
    pages = [paper.copy() for _ in range(num_frames)]
    for place, video in zip(places, videos.values(), strict=True):
        for page, frame in zip(pages, video, strict=True):
            page.paste(Image.fromarray(frame), place)
    return pages


def _draw_footer(paper: Image.Image, corner: tuple[int, int], footer: Footer) -> None:
    """Draw from the upper left corner downwards: a scale as ``0 [colours] top label``, a sentence as it is."""
    draw, font = ImageDraw.Draw(paper), _font(_FONT_SIZE)
    for number, line in enumerate(footer):
        x, middle = corner[0], corner[1] + _MARGIN + number * (_LINE + _GAP) + _LINE // 2
        if isinstance(line, ColourScale):
            draw.text((x, middle), "0", fill=_INK, font=font, anchor="lm")
            x += _text_width(["0"], _FONT_SIZE) + _GAP
            bar = legend(_BAR_WIDTH)[None].repeat(_BAR_HEIGHT, axis=0)
            paper.paste(Image.fromarray(bar), (x, middle - _BAR_HEIGHT // 2))
            x += _BAR_WIDTH + _GAP
        draw.text((x, middle), _footer_text(line), fill=_INK, font=font, anchor="lm")


def _footer_text(line: str | ColourScale) -> str:
    return line if isinstance(line, str) else f"{line.top:.3g}   {line.label}"


def _footer_width(footer: Footer) -> int:
    bar = _text_width(["0"], _FONT_SIZE) + _BAR_WIDTH + 2 * _GAP
    widths = (_text_width([_footer_text(line)], _FONT_SIZE) + bar * isinstance(line, ColourScale) for line in footer)
    return max(widths, default=0)


def _footer_height(footer: Footer) -> int:
    return (_MARGIN + len(footer) * (_LINE + _GAP) - _GAP) if footer else 0


def _enlarged(rows: Mapping[str, Video], scale: int | None) -> dict[str, Video]:
    """Repeat pixels: they are the data, and a smooth enlargement would show what is not there."""
    for label, video in rows.items():
        check_video(video, f"rows[{label!r}]")
    shapes = {video.shape for video in rows.values()}
    if len(shapes) != 1:
        raise ValueError(f"rows must be one or more videos of one shape, got {sorted(shapes)}")
    (shape,) = shapes
    factor = scale if scale is not None else max(1, -(-_MIN_SIDE // min(shape[1:3])))
    if factor < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    return {label: video.repeat(factor, axis=1).repeat(factor, axis=2) for label, video in rows.items()}


def _with_one_palette(pages: list[Image.Image], colours: int) -> list[Image.Image]:
    """Reduce colours together and without dither: what does not move then costs nothing, and does not flicker."""
    strip = Image.new("RGB", (pages[0].width, pages[0].height * len(pages)))
    for number, page in enumerate(pages):
        strip.paste(page, (0, number * page.height))
    palette = strip.quantize(colours, method=Image.Quantize.MEDIANCUT)
    return [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]


def _wrapped(label: str, characters: int) -> str:
    """Break between words; a word too long for a line between the parts of a name, or else anywhere."""
    parts = textwrap.TextWrapper(characters)
    parts.wordsep_re = _PARTS
    lines = textwrap.wrap(label, characters, break_long_words=False)
    return "\n".join("\n".join(parts.wrap(line)) for line in lines) or " "


def _draw_label(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, *, anchor: str) -> None:
    align = "right" if anchor.startswith("r") else "center"
    draw.text(at, text, fill=_INK, font=_font(_FONT_SIZE), anchor=anchor, align=align)


def _text_width(texts: Iterable[str], size: int) -> int:
    return max(int(_font(size).getlength(line)) + 1 for text in texts for line in (text.splitlines() or [""]))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: Pillow's own lacks most of Unicode, and file names have it."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
