"""A scorer in windows of a long clip, as one distribution over all its tokens.

The paths of trajectory attention are a vector for each pair of a token and a time slot: with eight times the slots,
sixty-four times the memory. In windows memory and time grow in proportion to the clip. The network then compares tokens
of one window only; windows compete in the softmax, which is one over all tokens of the clip.
"""

from collections.abc import Callable

from torch import Tensor

from tats_ray.geometry import TokenGrid
from tats_ray.masking.draws import Scores


class WindowedScorer:
    """Applies a scorer of windows to each window of a clip; it has no parameters but the scorer's.

    Args:
        scorer: From patches of a window, ``[batch, window tokens, pixels]``, to their scores.
        window: How a window is cut into tokens; the clip's slots are a multiple of its.
    """

    def __init__(self, scorer: Callable[[Tensor], Scores], window: TokenGrid) -> None:
        self.scorer = scorer
        self.window = window

    def __call__(self, patches: Tensor) -> Scores:
        """Score every token of uint8 ``patches``, ``[batch, tokens, pixels]``; a clip's value is its windows' mean."""
        windows = patches.shape[1] // self.window.num_tokens
        scores = self.scorer(patches.unflatten(1, (windows, -1)).flatten(0, 1))
        return Scores(
            logits=scores.logits.reshape(len(patches), -1),
            value=None if scores.value is None else scores.value.reshape(len(patches), -1),
            clip_value=None if scores.clip_value is None else scores.clip_value.reshape(len(patches), windows).mean(1),
        )


def window_grid(grid: TokenGrid, *, window_frames: int | None, tubelet_size: int) -> TokenGrid:
    """Return the grid of one window; that of the clip where no window is asked for.

    Raises:
        ValueError: Windows do not divide the clip, or tubelets do not divide a window.
    """
    if window_frames is None:
        return grid
    frames = grid.time * tubelet_size
    if frames % window_frames or window_frames % tubelet_size:
        fitting = [size * tubelet_size for size in range(1, grid.time + 1) if grid.time % size == 0]
        raise ValueError(
            f"masking.visible.window_frames must divide the clip's {frames} frames and be a multiple of the "
            f"{tubelet_size} of a token, got {window_frames}; choose one of {', '.join(map(str, fitting))}"
        )
    return TokenGrid(window_frames // tubelet_size, grid.height, grid.width)
