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
