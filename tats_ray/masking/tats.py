"""The TATS scorer: actor and per-token critic over trajectory attention (Rai et al. 2025, arXiv 2505.08561).

The paper's tables and constants were not available; what it leaves open is chosen here and said in ``docs/decisions/``.
The scorer reads the pixels through a narrow projection of its own. So it shares no parameter with the autoencoder, no
gradient crosses, and the autoencoder can project its visible patches only.
"""

from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from tats_ray.geometry import TokenGrid
from tats_ray.masking.draws import Scores
from tats_ray.nn.patches import TubeletEmbed
from tats_ray.nn.trajectory import TrajectoryBlock
from tats_ray.rl.choice import TEMPERED, WITH_CLIP_VALUE, ObjectiveName
from tats_ray.rl.ppo import PPOConfig
from tats_ray.rl.reward import RewardConfig


class SwitchConfig(BaseModel):
    """When the sampler's critic and then its policy are switched on; they are never switched off again."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    error_spread: float = Field(default=0.3, ge=0)
    """The critic starts when the relative errors of a held-out clip's tokens have this standard deviation."""
    explained_variance: float = Field(default=0.1, lt=1)
    """The policy starts when the critic explains this share of held-out errors at two checks in a row."""
    critic_by: float = Field(default=0.15, ge=0, le=1)
    """The critic starts at this share of the run at the latest."""
    policy_by: float = Field(default=0.2, ge=0, le=1)
    """The policy starts at this share of the run at the latest."""


class TATSConfig(BaseModel):
    """Visible tokens drawn from a policy over trajectory-attended tokens, taught by PPO."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["tats"] = "tats"
    """Strategy by which the visible tokens are chosen."""
    objective: ObjectiveName = "withheld"
    """What teaches the policy: the error of a withheld token (withheld); as ablations the critic alone, without an
    actor (regress), AdaMAE's loss with a ratio and without entropy (surrogate), or PPO on the drawn order, rewarded by
    a low or a high mean error of the clip (order-low-error, order-high-error)."""
    embed_dim: int = Field(default=192, ge=8)
    """Width of the sampler; its cost grows with the square, and at the encoder's width it exceeds the encoder's."""
    num_heads: int = Field(default=3, ge=1)
    """Attention heads of the sampler's trajectory block."""
    window_frames: int | None = Field(default=None, ge=1)
    """Frames of a window in which the sampler looks at a long clip, each on its own; they divide the clip's. Null is
    the whole clip at once, whose memory grows with the square of its length."""
    switch: SwitchConfig = SwitchConfig()
    """When the sampler is switched on."""
    ppo: PPOConfig = PPOConfig()
    """How the sampler learns."""
    reward: RewardConfig = RewardConfig()
    """What the sampler learns from."""

    @model_validator(mode="after")
    def _target_is_reachable(self) -> Self:
        if self.ppo.target_nats is not None and self.objective not in TEMPERED:
            raise ValueError(
                f"masking.visible.ppo.target_nats adapts the temperature, which sets the distance from uniform where "
                f"masking.visible.objective is {' or '.join(TEMPERED)}, got {self.ppo.target_nats} with "
                f"{self.objective}; set target_nats to null"
            )
        return self

    @model_validator(mode="after")
    def _has_what_learns(self) -> Self:
        if self.reward.critic == "constant" and self.objective == "regress":
            raise ValueError(
                "masking.visible.objective=regress draws by the critic alone, and with "
                "masking.visible.reward.critic=constant none learns; set it to trained, or take another objective"
            )
        return self


class TATSScorer(nn.Module):
    """Own projection of raw patches, zero position table, one trajectory block, two linear heads.

    The actor starts at zero (a uniform policy, as random masking) and the critic at one (every token as hard as its
    clip's mean). An objective on whole clips has a third head, on the mean of the clip's features: the mean of the
    critic's tokens is 1 for every clip, since their errors are relative to their clip, and knows no hard clip from an
    easy one. It starts at one as well (every clip as hard as the mean).
    """

    def __init__(self, config: TATSConfig, *, grid: TokenGrid, patch_pixels: int) -> None:
        super().__init__()
        if config.embed_dim % config.num_heads:
            raise ValueError(
                f"masking.visible.embed_dim must be a multiple of masking.visible.num_heads, got {config.embed_dim} "
                f"and {config.num_heads}"
            )
        self.grid = grid
        self.embed = TubeletEmbed(patch_pixels, config.embed_dim)
        self.positions = nn.Parameter(torch.zeros(grid.num_tokens, config.embed_dim))
        self.block = TrajectoryBlock(config.embed_dim, config.num_heads)
        self.norm = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.actor = nn.Linear(config.embed_dim, 1)
        self.critic = nn.Linear(config.embed_dim, 1)
        self.clip_critic = nn.Linear(config.embed_dim, 1) if config.objective in WITH_CLIP_VALUE else None
        for head, bias in ((self.actor, 0.0), (self.critic, 1.0), (self.clip_critic, 1.0)):
            if head is not None:
                nn.init.zeros_(head.weight)
                nn.init.constant_(head.bias, bias)

    def forward(self, patches: Tensor) -> Scores:
        """Score every token.

        Args:
            patches: uint8 ``[batch, tokens, pixels]``.

        Returns:
            Logits and values in float32 whatever the autocast: ratios of small probabilities need it.
        """
        features = self.norm(self.block(self.embed(patches) + self.positions, self.grid))
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            return Scores(
                logits=self.actor(features).squeeze(-1),
                value=self.critic(features).squeeze(-1),
                clip_value=None if self.clip_critic is None else self.clip_critic(features.mean(1)).squeeze(-1),
            )
