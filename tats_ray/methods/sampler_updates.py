"""Where the sampler meets its objective: what each kind of sampler does around the autoencoder's step."""

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor, nn

from tats_ray.masking.draws import Scores
from tats_ray.masking.plan import MaskPlan
from tats_ray.methods.averages import Averages
from tats_ray.methods.base import Stepper
from tats_ray.rl.policy_gradient import hidden_token_loss


class SamplerUpdate(Protocol):
    """A sampler's part of a training step, in the order of the calls."""

    @property
    def kind(self) -> str:
        """Name of the scorer's kind."""
        ...

    @property
    def stage(self) -> str:
        """Name of the present stage."""
        ...

    @property
    def at_rest(self) -> bool:
        """Whether nothing gathered waits for an update."""
        ...

    @property
    def scorer(self) -> nn.Module | None:
        """The network that scores tokens; None for a fixed rule."""
        ...

    def score(self, patches: Tensor, truth: Tensor | None = None) -> Scores | None:
        """Score a batch for the draw; None draws uniformly.

        ``truth``, ``[batch, tokens]``, is what each token shows of a mover, for the one rule that asks for it.
        """
        ...

    def prefer(self, patches: Tensor, truth: Tensor | None = None) -> Scores | None:
        """Score a batch as the sampler would if it drew, whatever its stage; None for a rule without preference."""
        ...

    def joint_loss(self, plan: MaskPlan, scores: Scores | None, error: Tensor) -> Tensor | None:
        """Return a term of the autoencoder's loss, ``[clips]``."""
        ...

    def collect(self, patches: Tensor, plan: MaskPlan, scores: Scores | None, error: Tensor) -> None:
        """Remember what was drawn and how it went; ``error`` is detached."""
        ...

    def reward(self, error: Tensor, patches: Tensor, target_idx: Tensor) -> Tensor:
        """Return errors, ``[clips, target]``, as the sampler is rewarded for them."""
        ...

    def improve(self, stepper: Stepper, averages: Averages) -> None:
        """Update the sampler when enough is gathered; called once a step, on all workers."""
        ...

    def after_validation(self, measured: Mapping[str, float], *, step: int) -> Mapping[str, float]:
        """Switch on what is ready; return events as metrics."""
        ...

    def state_dict(self) -> dict[str, object]:
        """State beside the scorer's parameters."""
        ...

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take over what :meth:`state_dict` returned."""
        ...


class NoUpdate:
    """Fixed rules have nothing to learn."""

    kind = "none"
    stage = "fixed"
    at_rest = True
    scorer: nn.Module | None = None

    def score(self, patches: Tensor, truth: Tensor | None = None) -> Scores | None:
        """Nothing to score."""
        return None

    def prefer(self, patches: Tensor, truth: Tensor | None = None) -> Scores | None:
        """Whatever the draw has."""
        return self.score(patches, truth)

    def joint_loss(self, plan: MaskPlan, scores: Scores | None, error: Tensor) -> Tensor | None:
        """No term."""
        return None

    def collect(self, patches: Tensor, plan: MaskPlan, scores: Scores | None, error: Tensor) -> None:
        """Nothing to remember."""

    def reward(self, error: Tensor, patches: Tensor, target_idx: Tensor) -> Tensor:
        """Return the errors as they are."""
        return error

    def improve(self, stepper: Stepper, averages: Averages) -> None:
        """Nothing to update."""

    def after_validation(self, measured: Mapping[str, float], *, step: int) -> Mapping[str, float]:
        """Nothing to switch."""
        return {}

    def state_dict(self) -> dict[str, object]:
        """No state."""
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """No state."""


class FixedScores(NoUpdate):
    """Drawn from scores that nobody learns."""

    def __init__(self, scorer: Callable[[Tensor], Scores]) -> None:
        self._scorer = scorer

    def score(self, patches: Tensor, truth: Tensor | None = None) -> Scores | None:
        """Score for the draw."""
        return self._scorer(patches)


class ToldScores(NoUpdate):
    """Drawn from what is known of each clip, and not from its pixels."""

    def __init__(self, scorer: Callable[[Tensor, Tensor | None], Scores]) -> None:
        self._scorer = scorer

    def score(self, patches: Tensor, truth: Tensor | None = None) -> Scores | None:
        """Score for the draw."""
        return self._scorer(patches, truth)


class JointPolicyGradient(NoUpdate):
    """AdaMAE: one loss, one optimiser, from the first step on."""

    kind = "adamae"
    stage = "joint"

    def __init__(self, scorer: nn.Module, embed: Callable[[Tensor], Tensor], *, loss_weight: float) -> None:
        self.scorer = scorer
        self.embed = embed
        self.loss_weight = loss_weight

    def score(self, patches: Tensor, truth: Tensor | None = None) -> Scores | None:
        """Score with gradient, which reaches the shared embedding."""
        assert self.scorer is not None
        return self.scorer(self.embed(patches))

    def joint_loss(self, plan: MaskPlan, scores: Scores | None, error: Tensor) -> Tensor | None:
        """Return the weighted sampling loss."""
        assert scores is not None
        return self.loss_weight * hidden_token_loss(scores.log_prob, plan.target_idx, error, plan.decode_weight)
