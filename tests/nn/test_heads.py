"""The attentive head against torch's own attention, which forms every key and value."""

import pytest
import torch
from torch import nn

from tats_ray.nn.heads import AttentiveClassifier, AttentivePooler


def drawn(seed: int = 0) -> AttentivePooler:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pooler = AttentivePooler(24, 4).double()
        for parameter in pooler.parameters():
            nn.init.normal_(parameter, std=0.3)  # biases and norms too, so that none is trivially right
    return pooler


def tokens(count: int = 7) -> torch.Tensor:
    return torch.randn(5, count, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_torch(pooler: AttentivePooler, x: torch.Tensor) -> torch.Tensor:
    theirs = nn.MultiheadAttention(24, 4, batch_first=True).double()
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([pooler.query_map.weight, pooler.key_map.weight, pooler.value_map.weight]),
            # The key's bias is any number: it cancels.
            "in_proj_bias": torch.cat([pooler.query_map.bias, torch.full((24,), 0.7), pooler.value_map.bias]),
            "out_proj.weight": pooler.proj.weight,
            "out_proj.bias": pooler.proj.bias,
        }
    )
    query = pooler.query.expand(len(x), 1, 24)
    normed = pooler.norm1(x)
    pooled = (query + theirs(query, normed, normed, need_weights=False)[0]).squeeze(1)
    return pooled + pooler.mlp(pooler.norm2(pooled))


def test_outputs_are_those_of_torchs_attention() -> None:
    pooler = drawn()
    torch.testing.assert_close(pooler(tokens()), by_torch(pooler, tokens()))


def test_gradients_are_those_of_torchs_attention() -> None:
    pooler = drawn()
    ours, theirs = tokens().requires_grad_(), tokens().requires_grad_()
    pooler(ours).square().sum().backward()
    by_torch(pooler, theirs).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_order_of_tokens_does_not_matter() -> None:
    pooler = drawn()
    torch.testing.assert_close(pooler(tokens().flip(1)), pooler(tokens()))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="num_heads must divide the width of a token, got 5 and 24; try num_heads=4"):
        AttentivePooler(24, 5)


def test_every_parameter_is_drawn_and_learns() -> None:
    head = AttentiveClassifier(24, 3, num_heads=4)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.fill_(float("nan"))
    head.reset_parameters()
    logits = head(tokens().float())
    assert logits.shape == (5, 3)
    assert logits.isfinite().all()
    # A target, since the sum of a norm's outputs is constant.
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1])).backward()
    still = [name for name, parameter in head.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not still
