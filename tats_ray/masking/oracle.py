"""Visible tokens drawn by the ground truth of synthetic clips: nothing is looked at, nothing is learnt.

An upper bound for any sampler that looks for motion: the best of them finds what this one is given. If it does not help
at any ``lift``, none of them can. Synthetic clips only, since no other clip comes with its truth; on real ones the
control is ``frame_difference.py``.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tats_ray.masking.draws import Scores
from tats_ray.masking.frame_difference import tilted_log_prob


class OracleConfig(BaseModel):
    """Visible tokens drawn by how much of a mover they show, mixed with uniform drawing; synthetic videos only."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["oracle"] = "oracle"
    """Strategy by which the visible tokens are chosen."""
    lift: float = Field(default=2.0, gt=1, le=100)
    """How many times as much of the movers is drawn as by uniform drawing; where they fill too much of the clip for
    that, tokens are drawn in proportion to what they show of them."""


class OracleScorer:
    """Scores tokens by the ground truth of their clip; a clip that shows no mover is drawn uniformly."""

    def __init__(self, config: OracleConfig) -> None:
        self.lift = config.lift

    def __call__(self, patches: Tensor, truth: Tensor | None) -> Scores:
        """Score every token.

        Args:
            patches: ``[batch, tokens, pixels]``, for their number alone.
            truth: ``[batch, tokens]``, share of each token that shows a mover.

        Raises:
            ValueError: There are clips, and no truth of them.
        """
        if truth is None:
            if len(patches):
                raise ValueError(
                    "masking.visible.kind=oracle draws by the ground truth of synthetic clips, and these clips came "
                    "without; take videos of pipelines/make_videos.py, or another masking.visible.kind"
                )
            truth = torch.zeros(patches.shape[:2], device=patches.device)
        return Scores(logits=tilted_log_prob(truth, lift=self.lift))
