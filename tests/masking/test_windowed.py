"""A scorer in windows: the windows' own scores side by side, one policy over the clip."""

import pytest
import torch

from tats_ray.geometry import TokenGrid
from tats_ray.masking.tats import TATSConfig, TATSScorer
from tats_ray.masking.windowed import WindowedScorer, window_grid

LONG = TokenGrid(time=16, height=2, width=2)  # 32 frames
PIXELS = 24


def scorer(grid: TokenGrid) -> TATSScorer:
    torch.manual_seed(0)
    made = TATSScorer(TATSConfig(embed_dim=8, num_heads=2, objective="order-low-error"), grid=grid, patch_pixels=PIXELS)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def patches(tokens: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, tokens, PIXELS), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_two_windows_are_two_calls_side_by_side() -> None:
    window = window_grid(LONG, window_frames=16, tubelet_size=2)
    assert window == TokenGrid(time=8, height=2, width=2)
    inner, clip = scorer(window), patches(LONG.num_tokens)
    scores = WindowedScorer(inner, window)(clip)
    first, second = inner(clip[:, :32]), inner(clip[:, 32:])
    assert first.value is not None
    assert second.value is not None
    assert scores.value is not None
    assert torch.allclose(scores.logits, torch.cat([first.logits, second.logits], 1), atol=1e-6)
    assert torch.allclose(scores.value, torch.cat([first.value, second.value], 1), atol=1e-6)
    assert first.clip_value is not None
    assert second.clip_value is not None
    assert scores.clip_value is not None
    assert torch.allclose(scores.clip_value, (first.clip_value + second.clip_value) / 2, atol=1e-6)
    # One policy over the clip: windows get what their logits weigh, not half each.
    assert torch.allclose(scores.log_prob.exp().sum(1), torch.ones(3))
    assert not torch.allclose(scores.log_prob[:, :32].exp().sum(1), torch.full((3,), 0.5), atol=1e-3)


def test_one_window_is_the_scorer_itself() -> None:
    inner, clip = scorer(LONG), patches(LONG.num_tokens)
    assert torch.equal(WindowedScorer(inner, LONG)(clip).logits, inner(clip).logits)


@pytest.mark.parametrize("frames", [12, 64, 1, 5])
def test_windows_that_do_not_divide_the_clip_are_refused(frames: int) -> None:
    with pytest.raises(
        ValueError, match=rf"divide the clip's 32 frames .* got {frames}; choose one of 2, 4, 8, 16, 32"
    ):
        window_grid(LONG, window_frames=frames, tubelet_size=2)
