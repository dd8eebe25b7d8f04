"""From scores to index sets: the K earliest of independent exponential clocks.

A token's clock rings after ``Exp(1) / p_i``. The K earliest tokens are K draws from p without replacement, in that
order (Gumbel top-k, Kool et al. 2019, arXiv 1903.06059). Every strategy takes its randomness from the same clocks, so
that two strategies, or two numbers of workers, can be compared on equal noise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tats_ray.masking.plan import Draw


@dataclass(frozen=True)
class Scores:
    """What a scorer says of every token of a clip."""

    logits: Tensor  # [batch, tokens], float32
    value: Tensor | None = None  # [batch, tokens], float32: the critic's estimate of the relative withheld error
    clip_value: Tensor | None = None  # [batch], float32: the critic of whole clips, where the objective has one

    @property
    def log_prob(self) -> Tensor:
        """Log-probabilities over all tokens of a clip, ``[batch, tokens]``."""
        return torch.log_softmax(self.logits, dim=1)


TARGETS = 2_654_435_769
"""Of steps between the noise for visible tokens and that for targets: more than any run has, and odd, since torch seeds
its generators with 32 bits on a CPU."""


def exponential_clocks(shape: tuple[int, int], *, seed: int, step: int, device: torch.device) -> Tensor:
    """Return unit-rate clocks that are a function of seed, step and position alone, ``[rows, tokens]`` float32."""
    generator = torch.Generator(device).manual_seed((seed * 1_000_003 + step) % 2**63)
    return torch.empty(shape, device=device).exponential_(generator=generator)


def draw_visible(log_prob: Tensor, clocks: Tensor, *, count: int) -> Draw:
    """Draw ``count`` distinct tokens a clip from a policy.

    Args:
        log_prob: ``[batch, tokens]``, float32.
        clocks: ``[batch, tokens]``, unit-rate exponential noise.
        count: K, visible tokens a clip.
    """
    log_prob = log_prob.detach().float()
    log_times, order = (clocks.log() - log_prob).topk(count, dim=1, largest=False, sorted=True)
    return Draw(log_prob=log_prob, order=order, threshold=log_times[:, -1].exp())


def uniform_log_prob(batch: int, num_tokens: int, device: torch.device) -> Tensor:
    """Return the log-probabilities of the uniform policy, ``[batch, num_tokens]``."""
    return torch.full((batch, num_tokens), -torch.log(torch.tensor(float(num_tokens))).item(), device=device)
