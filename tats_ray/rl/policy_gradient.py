"""AdaMAE's sampling loss (Bandara et al. 2023, arXiv 2211.09120): hidden tokens, weighted by their error."""

from torch import Tensor


def hidden_token_loss(log_prob: Tensor, target_idx: Tensor, error: Tensor) -> Tensor:
    """Return ``-mean_hidden(e_i log p_i)`` of each clip, ``[clips]``.

    No baseline, no value: a pull of p towards the hidden tokens' errors, which fades for a token that is always
    visible.

    Args:
        log_prob: ``[clips, tokens]``, float32, with gradient.
        target_idx: ``[clips, target]``, the hidden tokens.
        error: ``[clips, target]``, detached here.
    """
    return -(error.detach() * log_prob.gather(1, target_idx)).mean(1)
