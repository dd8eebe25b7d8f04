import pytest
import torch
from timm.models.vision_transformer import Block as TimmBlock
from torch import nn

from tats_ray.nn.blocks import Block, BlockStack, Norm, StackConfig

DIM, HEADS, TOKENS = 24, 3, 10
CONFIG = StackConfig(embed_dim=DIM, depth=3, num_heads=HEADS)


def pair() -> tuple[Block, TimmBlock]:
    """Our block and the independent truth, each drawn from the same seed."""
    torch.manual_seed(0)
    ours = Block(DIM, HEADS, mlp_ratio=4.0, drop_path=0.0)
    torch.manual_seed(0)
    theirs = TimmBlock(DIM, HEADS, mlp_ratio=4.0, qkv_bias=True, norm_layer=Norm)
    return ours, theirs


def test_parameters_are_drawn_and_named_as_timms() -> None:
    ours, theirs = pair()
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("context", [0, 4])
def test_numbers_and_gradients_are_timms(context: int) -> None:
    ours, theirs = pair()
    for parameter in ours.parameters():  # far from values that hide mistakes
        nn.init.normal_(parameter, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, TOKENS, DIM, requires_grad=True)
    coefficient = torch.randn(2, TOKENS - context, DIM)
    fast, slow = ours(x, context=context), theirs(x)[:, context:]
    assert torch.allclose(fast, slow, atol=1e-5)  # float32 rounding of values of order one
    got, expected = (
        torch.autograd.grad((out * coefficient).sum(), [x, *module.parameters()])
        for out, module in ((fast, ours), (slow, theirs))
    )
    for mine, reference in zip(got, expected, strict=True):
        # Sums over twenty tokens, judged against their own size.
        assert (mine - reference).abs().max() <= 1e-5 * max(1.0, reference.abs().max())


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_unwanted_tokens_are_still_looked_at(activation_checkpointing: bool) -> None:
    torch.manual_seed(0)
    stack = BlockStack(CONFIG.model_copy(update={"activation_checkpointing": activation_checkpointing}))
    x = torch.randn(2, TOKENS, DIM, requires_grad=True)
    wanted, every = stack(x, context=4), stack(x)
    assert torch.allclose(wanted, every[:, 4:], atol=1e-6)
    got, expected = (torch.autograd.grad(out.square().sum(), x)[0] for out in (wanted, every[:, 4:]))
    assert got[:, :4].abs().min() > 0
    assert torch.allclose(got, expected, atol=1e-5)
