import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tats_ray.geometry import TokenGrid
from tats_ray.nn.trajectory import TrajectoryAttention, TrajectoryBlock

GRID = TokenGrid(time=3, height=2, width=2)
DIM, HEADS = 6, 2


def attention(dtype: torch.dtype = torch.float64) -> TrajectoryAttention:
    torch.manual_seed(0)
    module = TrajectoryAttention(DIM, HEADS).to(dtype)
    for parameter in module.parameters():  # large enough that softmax is far from uniform, biases far from zero
        torch.nn.init.normal_(parameter, std=0.7)
    return module


def softmax(scores: list[Tensor]) -> list[Tensor]:
    exponentials = [score.exp() for score in scores]
    return [value / sum(exponentials) for value in exponentials]


def naive_clip(module: TrajectoryAttention, x: Tensor) -> Tensor:
    """One clip by the paper's equations, one query, head and frame at a time."""
    tokens, dim = x.shape
    frames = [range(u * GRID.slot_tokens, (u + 1) * GRID.slot_tokens) for u in range(GRID.time)]
    heads = [slice(h * dim // HEADS, (h + 1) * dim // HEADS) for h in range(HEADS)]
    root = math.sqrt(dim // HEADS)
    q, k, v = module.qkv(x).split(dim, dim=1)
    outputs = []
    for n in range(tokens):
        path = []
        for frame in frames:
            pooled = []
            for head in heads:
                weights = softmax([q[n, head] @ k[m, head] / root for m in frame])
                pooled.append(sum(weight * v[m, head] for weight, m in zip(weights, frame, strict=True)))
            path.append(torch.cat(pooled))
        query = module.path_query(path[n // GRID.slot_tokens])
        keys = [module.path_key(point) for point in path]
        values = [module.path_value(point) for point in path]
        attended = []
        for head in heads:
            weights = softmax([query[head] @ key[head] / root for key in keys])
            attended.append(sum(weight * value[head] for weight, value in zip(weights, values, strict=True)))
        outputs.append(module.proj(torch.cat(attended)))
    return torch.stack(outputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_equals_the_equations(dtype: torch.dtype, tolerance: float) -> None:
    module = attention(dtype)
    x = torch.randn(2, GRID.num_tokens, DIM, dtype=dtype, requires_grad=True)
    coefficient = torch.randn(2, GRID.num_tokens, DIM, dtype=dtype)
    wanted = [x, *module.parameters()]
    fast, slow = module(x, GRID), torch.stack([naive_clip(module, clip) for clip in x])
    assert torch.allclose(fast, slow, atol=tolerance, rtol=tolerance)
    ours, theirs = (torch.autograd.grad((y * coefficient).sum(), wanted) for y in (fast, slow))
    for got, expected in zip(ours, theirs, strict=True):
        # Gradients of parameters are sums over 24 tokens, so float32 rounding is judged against their own size.
        assert (got - expected).abs().max() <= tolerance * max(1.0, expected.abs().max())


def naive_path(module: TrajectoryAttention, x: Tensor, token: int) -> Tensor:
    """Equation 1's weights for one query, frame by frame and head by head, ``[time, slot_tokens]``."""
    dim = x.shape[1]
    q, k, _ = module.qkv(x).split(dim, dim=1)
    rows = []
    for u in range(GRID.time):
        frame = range(u * GRID.slot_tokens, (u + 1) * GRID.slot_tokens)
        total = torch.zeros(GRID.slot_tokens, dtype=x.dtype)
        for h in range(HEADS):
            head = slice(h * dim // HEADS, (h + 1) * dim // HEADS)
            total += torch.stack(softmax([q[token, head] @ k[m, head] / math.sqrt(dim // HEADS) for m in frame]))
        rows.append(total / HEADS)
    return torch.stack(rows)


def test_the_attention_path_equals_the_equation() -> None:
    module, x = attention(), torch.randn(3, GRID.num_tokens, DIM, dtype=torch.float64)
    token_idx = torch.tensor([0, 6, 11])
    path = module.attention_path(x, GRID, token_idx=token_idx)
    slow = torch.stack([naive_path(module, clip, int(token)) for clip, token in zip(x, token_idx, strict=True)])
    assert not path.requires_grad
    assert torch.allclose(path, slow, atol=1e-12)  # float64 rounding
    assert torch.allclose(path.sum(-1), torch.ones(3, GRID.time, dtype=path.dtype), atol=1e-12)


def test_the_attention_path_is_the_one_that_is_gathered_along() -> None:
    """With one head and the values that say where they are, the path of step 1 is the weights themselves."""
    module = TrajectoryAttention(4, 1)
    torch.nn.init.normal_(module.qkv.weight[:8])
    torch.nn.init.zeros_(module.qkv.weight[8:])
    x = torch.randn(1, GRID.num_tokens, 4)
    values = torch.eye(4).repeat(GRID.time, 1)  # the site's number, one hot
    module.qkv.register_forward_hook(lambda _, __, out: torch.cat([out[..., :8], values[None]], dim=-1))
    points = module._paths(x, GRID)
    for token in range(GRID.num_tokens):
        path = module.attention_path(x, GRID, token_idx=torch.tensor([token]))[0]
        gathered = torch.stack([point[0, token] for point in points])
        assert torch.allclose(path, gathered, atol=1e-6)  # float32 rounding of one softmax


def test_a_block_looks_at_its_normalised_input() -> None:
    block, x = TrajectoryBlock(DIM, HEADS), 5 + 3 * torch.randn(2, GRID.num_tokens, DIM)
    torch.nn.init.normal_(block.attn.qkv.weight)
    token_idx = torch.tensor([3, 7])
    path = block.attention_path(x, GRID, token_idx=token_idx)
    centred = (x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True)
    slow = torch.stack(
        [naive_path(block.attn, clip, int(token)) for clip, token in zip(centred, token_idx, strict=True)]
    )
    assert torch.allclose(path, slow, atol=1e-4)  # the norm's epsilon of 1e-6, times weights of size 10


def test_sites_have_no_order_inside_a_frame() -> None:
    module, x = attention(), torch.randn(1, GRID.num_tokens, DIM, dtype=torch.float64)
    order = torch.cat([u * 4 + torch.randperm(4) for u in range(GRID.time)])
    assert torch.allclose(module(x[:, order], GRID), module(x, GRID)[:, order], atol=1e-12)  # float64 rounding


def test_frames_are_told_apart() -> None:
    module, x = attention(), torch.randn(1, GRID.num_tokens, DIM, dtype=torch.float64)
    other = TokenGrid(time=2, height=2, width=3)
    assert not torch.allclose(module(x, GRID), module(x, other), atol=1e-3)


def test_half_precision_stays_near() -> None:
    module, x = attention(torch.float32), torch.randn(2, GRID.num_tokens, DIM)
    with torch.autocast("cpu", torch.bfloat16):
        half = module(x, GRID)
    exact = module(x, GRID)
    assert half.dtype == torch.bfloat16
    # bfloat16 rounds at 2^-8, through five products in a row.
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()


class Recorder(TorchDispatchMode):
    """Remembers the shape of every tensor that an operation makes, and the operations' names."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self.operations: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations.add(func.__name__)
        self.shapes += [tuple(leaf.shape) for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        return out


def recorded(grid: TokenGrid, *, dim: int, num_heads: int) -> Recorder:
    module = TrajectoryAttention(dim, num_heads)
    x = torch.randn(2, grid.num_tokens, dim, requires_grad=True)
    with Recorder() as recorder:
        module(x, grid).sum().backward()
    return recorder


def test_no_tensor_holds_all_pairs_of_tokens() -> None:
    grid, dim, num_heads = TokenGrid(time=4, height=8, width=8), 32, 2
    recorder = recorded(grid, dim=dim, num_heads=num_heads)
    assert "_scaled_dot_product_flash_attention_for_cpu.default" in recorder.operations
    assert "_scaled_dot_product_flash_attention_for_cpu_backward.default" in recorder.operations
    tokens = grid.num_tokens
    assert not [shape for shape in recorder.shapes if shape[-2:] == (tokens, tokens)]
    # The path itself is the largest thing there is: tokens x time x dim, an eighth of tokens x tokens x heads.
    assert max(math.prod(shape) for shape in recorder.shapes) == 2 * tokens * grid.time * dim


def products_over_frames(recorder: Recorder, grid: TokenGrid, *, dim: int) -> Iterator[tuple[int, ...]]:
    rows = 2 * grid.num_tokens * grid.time
    return (shape for shape in recorder.shapes if len(shape) == 2 and shape[0] == rows and shape[1] % dim == 0)


def test_no_map_is_applied_once_a_frame() -> None:
    grid = TokenGrid(time=4, height=8, width=8)
    assert not list(products_over_frames(recorded(grid, dim=32, num_heads=2), grid, dim=32))


def test_a_block_starts_from_its_input() -> None:
    block, x = TrajectoryBlock(DIM, HEADS), torch.randn(2, GRID.num_tokens, DIM)
    torch.nn.init.zeros_(block.attn.proj.weight)
    torch.nn.init.zeros_(block.mlp.fc2.weight)
    assert torch.equal(block(x, GRID), x)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"x must hold the 12 tokens of TokenGrid.*, got 13"):
        attention()(torch.zeros(1, 13, DIM, dtype=torch.float64), GRID)
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 6 and 4"):
        TrajectoryAttention(6, 4)


@pytest.mark.parametrize("tokens", [[12], [-1], [0, 1]])
def test_a_token_outside_the_clip_has_no_path(tokens: list[int]) -> None:
    x = torch.zeros(1, GRID.num_tokens, DIM, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"token_idx must hold a number from 0 to 11 for each of 1 clips, got \["):
        attention().attention_path(x, GRID, token_idx=torch.tensor(tokens))
    with pytest.raises(ValueError, match=r"x must hold the 12 tokens"):
        attention().attention_path(x[:, 1:], GRID, token_idx=torch.tensor([0]))
