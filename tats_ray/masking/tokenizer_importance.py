"""Importance by a tokenizer's scorer: as it was cached with the codes, or as it scores the clips of the moment.

Gundavarapu et al. 2024 (arXiv 2411.13683, sections 3.2 and 3.4): the scorer is frozen, so that what is chosen does not
drift towards what is easy to predict. Cached it costs nothing; on line every crop and mirroring may be new.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from tats_ray.data.batches import ClipBatch
from tats_ray.geometry import TokenGrid
from tats_ray.tokenizer.model import AdaptiveTokenizer
from tats_ray.tokenizer.scorer import check_importance


class CachedImportanceConfig(BaseModel):
    """Tokens are as important as ``data.codes`` says, of the very clips that were encoded."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["codes"] = "codes"
    """What ranks the tokens."""


class TokenizerImportanceConfig(BaseModel):
    """Tokens are as important as a frozen tokenizer scores them, of any clip."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["tokenizer"] = "tokenizer"
    """What ranks the tokens."""
    checkpoint: str | None = None
    """Run folder or checkpoint of pipelines/train_tokenizer.py."""
    digest: str | None = None
    """Content hash that the tokenizer must have; null takes that of the checkpoint, and a resumed run keeps to it."""
    scorer_widths: tuple[int, int] | None = None
    """Channels of its scorer, from which its FLOPs are counted; null takes those of the checkpoint when the run begins.
    Until then they count nothing."""


class CachedImportance:
    """What came with the codes of the clips."""

    def __init__(self, *, grid: TokenGrid) -> None:
        self.grid = grid

    def __call__(self, batch: ClipBatch, patches: Tensor) -> Tensor:
        """Rank by what was cached.

        Raises:
            ValueError: The clips came without, or with numbers that rank nothing.
        """
        if batch.importance is None:
            raise ValueError("masking.importance.kind=codes needs the importance of every clip; set data.codes")
        check_importance(batch.importance, self.grid)
        return batch.importance


class TokenizerImportance:
    """What a frozen tokenizer makes of the clips, window by window; its weights are no part of what is trained."""

    def __init__(self, *, grid: TokenGrid) -> None:
        self.grid = grid
        self.tokenizer: AdaptiveTokenizer | None = None
        """Set before the first clip; a model is described without it."""

    @torch.no_grad()
    def __call__(self, batch: ClipBatch, patches: Tensor) -> Tensor:
        """Rank by the scorer, without gradient.

        Raises:
            ValueError: A score is not finite.
        """
        assert self.tokenizer is not None
        with torch.autocast(batch.video.device.type, enabled=False):  # as it was when it was cached
            return self.tokenizer.importance(batch.video)
