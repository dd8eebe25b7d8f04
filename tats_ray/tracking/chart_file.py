"""A figure as a file: PNG below 300 kB, drawn without pyplot, with texts as they are written.

No backend is chosen and no figure outlives its call. A dollar sign starts no formula.
"""

import textwrap
from io import BytesIO
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

_DPI = (120, 96, 72)
_MAX_BYTES = 300_000
_SHADES = 96
_NAME_CHARACTERS = 28
_TITLE_CHARACTERS_PER_INCH = 9
COLOURS = matplotlib.colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
GREY = "0.45"


def head(figure: Figure, title: str) -> None:
    """Write the title over the whole figure, in as many lines as it needs."""
    room = int(_TITLE_CHARACTERS_PER_INCH * figure.get_figwidth())
    figure.suptitle("\n".join(plain(line) for line in textwrap.wrap(title, room)), fontsize=11)


def shortened(text: str, *, room: int = _NAME_CHARACTERS) -> str:
    """Shorten a name to its room."""
    text = " ".join(text.split())
    return plain(text if len(text) <= room else f"{text[: room - 1]}…")


def plain(text: str) -> str:
    """Keep matplotlib from reading formulas in a text."""
    return text.replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Write as finely as the size allows; of thousands of crossing lines, with fewer shades or more coarsely."""
    png = b""
    for dpi in _DPI:
        png = _png(figure, dpi=dpi)
        if len(png) >= _MAX_BYTES:
            png = _few_shades(png)
        if len(png) < _MAX_BYTES:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png)


def _png(figure: Figure, *, dpi: int) -> bytes:
    written = BytesIO()
    figure.savefig(written, format="png", dpi=dpi, pil_kwargs={"optimize": True})
    return written.getvalue()


def _few_shades(png: bytes) -> bytes:
    written = BytesIO()
    Image.open(BytesIO(png)).convert("RGB").quantize(_SHADES).save(written, format="png", optimize=True)
    return written.getvalue()
