"""Tokens drawn over the frames of a clip: which are shown, where a number is large, which are pointed at.

A video is uint8 RGB ``[frames, height, width, 3]``; tokens are ordered as in ``TokenGrid``.
"""

from dataclasses import dataclass

import matplotlib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tats_ray.geometry import TokenGrid

Video = NDArray[np.uint8]  # [frames, height, width, 3]

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_DIMMED = 0.3
_HEAT_OPACITY = 0.6
_HEAT_FLOOR = 2.0
_MID_GREY = 128.0


@dataclass(frozen=True)
class ColourScale:
    """What the colours of :func:`paint` stand for; videos painted by one scale can be compared."""

    label: str
    """The quantity, for the legend."""
    top: float
    """The value of the brightest colour, more than 0; the darkest stands for 0."""

    @classmethod
    def over(cls, label: str, *token_values: ArrayLike) -> "ColourScale":
        """Reach to the largest of the values, and to 2 at least: those near their mean of 1 are not all bright."""
        largest = [np.nanmax(np.asarray(values, dtype=np.float64)) for values in token_values]
        return cls(label, float(max([_HEAT_FLOOR, *largest])))


def paint(video: Video, token_values: ArrayLike, grid: TokenGrid, scale: ColourScale) -> Video:
    """Lay a number for each token over the grey frames, dark for 0, bright for ``scale.top``; each fills its tubelet.

    Args:
        video: The clip, ``[frames, height, width, 3]``.
        token_values: ``[tokens]``; below 0 and above ``scale.top`` the end of the scale is taken. Tokens that have none
            are NaN, and are left in their colours.
        grid: How the clip divides into tokens.
        scale: What the colours stand for.

    Raises:
        ValueError: The values do not fit the grid, or the grid does not divide the video.
    """
    values = _checked_values(video, token_values, grid)
    heat = _over_pixels(values / scale.top, video, grid)
    known = ~np.isnan(heat)
    return np.where(known[..., None], _blend(np.where(known, heat, 0), _grey(video)), video)


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
    values = _checked_values(video, token_values, grid)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() > 0):
        raise ValueError(
            f"token_values must be finite, at least 0 and not all 0, got {values.min()} to {values.max()}; "
            "give probabilities, not logits"
        )
    relative = values / values.mean()
    return paint(video, relative, grid, ColourScale.over("", relative))


def show_tokens(video: Video, token_idx: ArrayLike, grid: TokenGrid) -> Video:
    """Keep the pixels of the given tokens as they are, and dim all others to a dark grey.

    Args:
        video: The clip, ``[frames, height, width, 3]``.
        token_idx: ``[any number]`` of token numbers, in any order.
        grid: How the clip divides into tokens.

    Raises:
        ValueError: A token lies outside the grid, or the grid does not divide the video.
    """
    shown = _chosen(video, token_idx, grid)
    return np.where(_over_pixels(shown, video, grid)[..., None], video, _as_pixels(_DIMMED * _grey(video)))


def frame_tokens(video: Video, token_idx: ArrayLike, grid: TokenGrid, *, colour: tuple[int, int, int]) -> Video:
    """Draw a line around each of the given tokens, inside of it; the rest stays as it is.

    Args:
        video: The clip, ``[frames, height, width, 3]``.
        token_idx: ``[any number]`` of token numbers, in any order.
        grid: How the clip divides into tokens.
        colour: RGB of the line.

    Raises:
        ValueError: A token lies outside the grid, or the grid does not divide the video.
    """
    chosen = _over_pixels(_chosen(video, token_idx, grid), video, grid)
    _, height, width, _ = video.shape
    rows, columns = (_on_border(size, size // count) for size, count in ((height, grid.height), (width, grid.width)))
    return np.where((chosen & (rows[:, None] | columns))[..., None], np.array(colour, dtype=np.uint8), video)


def legend(num_steps: int) -> NDArray[np.uint8]:
    """Return the colours from 0 to the top of a scale as they look over a middling grey, ``[num_steps, 3]``."""
    return _blend(np.linspace(0, 1, num_steps), np.full((num_steps, 1), _MID_GREY))


def check_video(video: Video, name: str) -> None:
    """Refuse what is no video.

    Raises:
        ValueError: With ``name``, and what was given.
    """
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or not video.size:
        raise ValueError(
            f"{name} must be uint8 [frames, height, width, 3] and not empty, got {video.dtype} {list(video.shape)}"
        )


def _blend(heat: NDArray[np.float64], grey: NDArray[np.float64]) -> NDArray[np.uint8]:
    # inferno is perceptually uniform and starts at black, so that a token of weight 0 is a darker frame and no colour.
    colour = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    return _as_pixels(_HEAT_OPACITY * colour + (1 - _HEAT_OPACITY) * grey)


def _on_border(size: int, token: int) -> NDArray[np.bool_]:
    """Tell which pixels along an axis lie at the edge of their token; the line grows with the token."""
    line, place = max(1, token // 10), np.arange(size) % token
    return (place < line) | (place >= token - line)


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


def _chosen(video: Video, token_idx: ArrayLike, grid: TokenGrid) -> NDArray[np.bool_]:
    idx = np.asarray(token_idx, dtype=np.int64)
    _check_grid(video, grid)
    if idx.size and not (idx.min() >= 0 and idx.max() < grid.num_tokens):
        raise ValueError(f"token_idx must lie in [0, {grid.num_tokens}), got {idx.min()} to {idx.max()}")
    chosen = np.zeros(grid.num_tokens, dtype=bool)
    chosen[idx] = True
    return chosen


def _checked_values(video: Video, token_values: ArrayLike, grid: TokenGrid) -> NDArray[np.float64]:
    values = np.asarray(token_values, dtype=np.float64)
    _check_grid(video, grid)
    if values.shape != (grid.num_tokens,):
        raise ValueError(f"token_values must have shape ({grid.num_tokens},), one for each token, got {values.shape}")
    return values


def _check_grid(video: Video, grid: TokenGrid) -> None:
    check_video(video, "video")
    frames, height, width, _ = video.shape
    if frames % grid.time or height % grid.height or width % grid.width:
        raise ValueError(f"video of {frames} frames of {height}x{width} pixels does not divide into {grid}")
