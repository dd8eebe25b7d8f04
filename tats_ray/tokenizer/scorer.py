"""How much each place of a clip changes, as two learned convolutions over raw pixels see it.

Gundavarapu et al. 2024 (arXiv 2411.13683, section 3.3): two 3-D convolutions, strided to the grid of the latents; a
token's score is the distance of its feature to that at the same place one latent slice before. Widths, kernels and
paddings are ours, for the paper leaves them open.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tats_ray.geometry import TokenGrid

_SMALLEST = 1e-6
"""Added under the root, whose slope at 0 would be infinite."""


class TokenScorer(nn.Module):
    """Scores every latent of a clip but those of the first slice, which have none before them.

    Pixels beyond the borders repeat the outermost ones: at the two ends of time nothing else would make a still clip
    look as if it changed. The second kernel reaches one frame beyond its tubelet at either side, so that neither
    direction of time is preferred.
    """

    def __init__(self, *, widths: tuple[int, int], tubelet_size: int, patch_size: int) -> None:
        """Take the channels of both layers, and the frames and pixels of one latent; ``patch_size`` a power of two."""
        super().__init__()
        first, second = _strides(patch_size)
        reach = 2 * first - 1
        self.features = nn.Conv3d(
            3, widths[0], (3, reach, reach), (1, first, first), (1, first - 1, first - 1), padding_mode="replicate"
        )
        self.project = nn.Conv3d(
            widths[0],
            widths[1],
            (tubelet_size + 2, second, second),
            (tubelet_size, second, second),
            (1, 0, 0),
            padding_mode="replicate",
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return float32 distances ``[batch, time - 1, height, width]`` for ``[batch, 3, frames, rows, columns]``.

        Raises:
            ValueError: The clip has one latent slice only.
        """
        features = self.project(F.gelu(self.features(pixels))).float()
        if features.shape[2] < 2:
            raise ValueError(
                f"the scorer compares a latent slice with the one before it, and {pixels.shape[2]} frames make one "
                f"slice only; take twice as many frames"
            )
        return (features.diff(dim=2).square().sum(1) + _SMALLEST).sqrt()


def scorer_macs(widths: tuple[int, int], *, tubelet_size: int, patch_size: int, num_tokens: int) -> int:
    """Return the multiply-adds of scoring so many latents."""
    first, second = _strides(patch_size)
    features = tubelet_size * second**2 * widths[0] * 3 * 3 * (2 * first - 1) ** 2
    return num_tokens * (features + widths[1] * widths[0] * (tubelet_size + 2) * second**2)


def with_first_kept(distance: Tensor) -> Tensor:
    """Flatten distances to scores ``[batch, tokens]`` in which the first slice is always among the best: +inf."""
    first = torch.full_like(distance[:, :1], torch.inf)
    return torch.cat([first, distance], 1).flatten(1)


def with_first_copied(distance: Tensor) -> Tensor:
    """Flatten distances to scores ``[batch, tokens]`` in which the first slice takes those of the second (EVEREST)."""
    return torch.cat([distance[:, :1], distance], 1).flatten(1)


def _strides(patch_size: int) -> tuple[int, int]:
    """Both layers' in height and width; the first takes the larger half of the halvings."""
    first = 2 ** -(-(patch_size.bit_length() - 1) // 2)
    return first, patch_size // first


def check_importance(importance: Tensor, grid: TokenGrid) -> None:
    """Refuse scores that rank nothing.

    Raises:
        ValueError: They do not fit the grid, or one is not a finite number.
    """
    if importance.shape[-1] != grid.num_tokens:
        raise ValueError(
            f"importance must have a score for each of {grid.num_tokens} tokens, got {importance.shape[-1]}"
        )
    wrong = int((~importance.isfinite()).sum())
    if wrong:
        raise ValueError(
            f"importance must be finite, {wrong} of {importance.numel()} scores are not; the tokenizer that made them "
            f"has diverged: train it anew with a lower optim.base_learning_rate"
        )
