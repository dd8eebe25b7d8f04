"""AdaMAE's sampling loss (Bandara et al. 2023, arXiv 2211.09120): hidden tokens, weighted by their error."""

from torch import Tensor


def hidden_token_loss(log_prob: Tensor, target_idx: Tensor, error: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return ``-mean_hidden(e_i log p_i)`` of each clip, ``[clips]``.

    No baseline, no value: a pull of p towards the hidden tokens' errors, which fades for a token that is always
    visible.

    Args:
        log_prob: ``[clips, tokens]``, float32, with gradient.
        target_idx: ``[clips, target]``, the hidden tokens, or those of them that were decoded.
        error: ``[clips, target]``, detached here.
        weight: ``[clips, target]``, inverse chance that a hidden token was decoded, 0 where it does not count: then the
            mean is that over all hidden tokens. None is 1.
    """
    term = error.detach() * log_prob.gather(1, target_idx)
    return -term.mean(1) if weight is None else -(term * weight).sum(1) / weight.sum(1)
