"""AdaptiveTokenizer: a window of video to codes, its tokens ranked by importance, and back to pixels.

Gundavarapu et al. 2024 (arXiv 2411.13683, section 3.3). No code of it is public; what the paper leaves open is decided
here, and said where it is.
"""

import hashlib
import json
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from tats_ray.geometry import TokenGrid
from tats_ray.tokenizer.autoencoder import AutoencoderConfig, Decoder, Encoder
from tats_ray.tokenizer.fsq import FSQ
from tats_ray.tokenizer.scorer import TokenScorer, check_importance, with_first_copied, with_first_kept
from tats_ray.tokenizer.topk import perturbed_top_k, top_k, unit_range


class TokenizerConfig(AutoencoderConfig):
    """Shape of the tokenizer, and how it learns which tokens matter."""

    levels: tuple[int, ...] = (8, 8, 8, 8, 8, 8)
    """Levels of each dimension of a code; six times 8 are 18 bits."""
    keep_ratio: float = Field(default=0.49, gt=0, le=1)
    """Share of a window's latents that the decoder is given in training, the whole first slice among them; the others
    are zero. Of 1,568 these are the 768 of the paper."""
    scorer_widths: tuple[int, int] = (64, 128)
    """Channels of the scorer's two layers."""
    sigma: float = Field(default=0.05, gt=0)
    """Noise of the smoothed top-k at the beginning, in units of a clip's range of scores; falls linearly."""
    sigma_end: float = Field(default=0.005, gt=0)
    """The same at the end of the run."""
    samples: int = Field(default=500, ge=2)
    """Draws of that noise for each clip and step."""


@dataclass(frozen=True)
class Reconstruction:
    """What became of a window."""

    pixels: Tensor  # [batch, 3, frames, rows, columns], float32, 0 is black and 1 is white; not clamped
    codes: Tensor  # [batch, tokens, dimensions] in [-1, 1], as the decoder had them
    kept: Tensor  # [batch, tokens], 1 or 0
    scores: Tensor  # [batch, tokens]: distances, +inf in the first slice


class AdaptiveTokenizer(nn.Module):
    """Encoder, quantiser, decoder and token scorer, for windows of one shape.

    The scorer sees pixels, not latents; only the reconstruction teaches it, through the mask. The decoder is not told
    which latents were dropped: they have the code zero.

    Example:
        >>> grid = TokenGrid.of(num_frames=16, crop_size=224, tubelet_size=2, patch_size=16)
        >>> tokenizer = AdaptiveTokenizer(TokenizerConfig(), grid=grid)
        >>> tokenizer.codes(torch.zeros(1, 128, 224, 224, 3, dtype=torch.uint8)).shape
        torch.Size([1, 12544])
    """

    def __init__(self, config: TokenizerConfig, *, grid: TokenGrid) -> None:
        """Initialise from torch's global generator.

        Args:
            config: Shape of the modules.
            grid: The latents of one window.

        Raises:
            ValueError: The levels are none, a window has one slice only, or too few latents are kept.
        """
        super().__init__()
        self.config = config
        self.grid = grid
        self.keep = keep_count(config, grid)
        self.quantizer = FSQ(config.levels)
        self.encoder = Encoder(config, dim=len(config.levels))
        self.decoder = Decoder(config, dim=len(config.levels), slices=grid.time)
        self.scorer = TokenScorer(
            widths=config.scorer_widths, tubelet_size=config.tubelet_size, patch_size=config.patch_size
        )

    def forward(self, video: Tensor, *, sigma: float | None = None) -> Reconstruction:
        """Encode, keep the best latents, quantise and decode.

        Args:
            video: uint8 ``[batch, frames, rows, columns, 3]``, one window.
            sigma: Noise of the smoothed top-k, through which the scorer learns; None for the plain one.
        """
        pixels = as_pixels(video)
        latents = self.latents(pixels)
        scores = with_first_kept(self.scorer(pixels))
        kept = self.select(scores, sigma=sigma)
        codes = self.quantizer(latents.float() * kept.unsqueeze(2))
        return Reconstruction(self.decode(codes), codes, kept, scores)

    def latents(self, pixels: Tensor) -> Tensor:
        """Return the latents before they are quantised, ``[batch, tokens, dimensions]``."""
        return self.encoder(pixels).flatten(2).transpose(1, 2)

    def select(self, scores: Tensor, *, sigma: float | None) -> Tensor:
        """Return 1 for the latents that are kept, 0 for the others, ``[batch, tokens]``."""
        if sigma is None:
            return top_k(scores, self.keep)
        return perturbed_top_k(unit_range(scores), self.keep, sigma=sigma, samples=self.config.samples)

    def decode(self, codes: Tensor) -> Tensor:
        """Return pixels ``[batch, 3, frames, rows, columns]`` float32 of codes ``[batch, tokens, dimensions]``."""
        grid = (self.grid.time, self.grid.height, self.grid.width)
        return self.decoder(codes.transpose(1, 2).unflatten(2, grid)).float()

    @torch.no_grad()
    def codes(self, video: Tensor) -> Tensor:
        """Return the numbers of the codes of all tokens, int64 ``[batch, windows * tokens]``, none of them dropped.

        Args:
            video: uint8 ``[batch, frames, rows, columns, 3]`` of one or more windows, each encoded for itself.

        Raises:
            ValueError: The window does not divide the clip.
        """
        indices = self.quantizer.index(self.quantizer(self.latents(as_pixels(self._windows(video)))))
        return indices.reshape(len(video), -1)

    @torch.no_grad()
    def importance(self, video: Tensor) -> Tensor:
        """Return every token's distance to the one before it, float32 ``[batch, windows * tokens]``.

        The first slice of a window takes the distances of its second. Distances of different windows are comparable.

        Raises:
            ValueError: The window does not divide the clip, or a score is not finite.
        """
        scores = with_first_copied(self.scorer(as_pixels(self._windows(video))))
        check_importance(scores, self.grid)
        return scores.reshape(len(video), -1)

    def content_hash(self) -> str:
        """Return the SHA-256 of settings and weights: equal where all codes and scores are."""
        grid = [self.grid.time, self.grid.height, self.grid.width]
        config = self.config.model_dump(mode="json")
        digest = hashlib.sha256(json.dumps({"config": config, "grid": grid}, sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _windows(self, video: Tensor) -> Tensor:
        """Lay the windows of all clips end to end, ``[batch * windows, frames, rows, columns, 3]``."""
        frames = self.grid.time * self.config.tubelet_size
        check_window(video.shape[1], window=frames)
        side = (self.grid.height * self.config.patch_size, self.grid.width * self.config.patch_size)
        if tuple(video.shape[2:4]) != side:
            raise ValueError(
                f"video must have the {side[0]}x{side[1]} pixels of the tokenizer's windows, got {list(video.shape)}"
            )
        return video.unflatten(1, (-1, frames)).flatten(0, 1)


def keep_count(config: TokenizerConfig, grid: TokenGrid) -> int:
    """Return how many latents of a window are kept.

    Raises:
        ValueError: There is no second slice to score, or fewer are kept than the first slice has.
    """
    if grid.time < 2:
        raise ValueError(
            f"a window of {config.tubelet_size} frames is one latent slice, and a token is scored against the slice "
            f"before it; take data.num_frames={2 * config.tubelet_size} at least"
        )
    keep = round(config.keep_ratio * grid.num_tokens)
    if keep <= grid.slot_tokens < grid.num_tokens:
        raise ValueError(
            f"tokenizer.keep_ratio must keep more than the first slice, which is always kept, got {config.keep_ratio}: "
            f"{keep} of {grid.num_tokens} latents, the slice has {grid.slot_tokens}; raise it above {1 / grid.time:.3g}"
        )
    return keep


def check_window(frames: int, *, window: int) -> None:
    """Refuse a clip that is no whole number of windows.

    Raises:
        ValueError: It is none.
    """
    if not frames or frames % window:
        near = max(1, round(frames / window)) * window
        raise ValueError(
            f"the tokenizer's window of {window} frames must divide the clip, got {frames} frames; take {near}"
        )


def as_pixels(video: Tensor) -> Tensor:
    """Turn uint8 ``[batch, frames, rows, columns, 3]`` to float32 ``[batch, 3, frames, rows, columns]`` in [0, 1]."""
    return video.permute(0, 4, 1, 2, 3).float() / 255
