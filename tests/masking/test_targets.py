"""Laws of target rules: their sets, their weights, and the chance that each hidden token has to be decoded."""

from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from torch import Tensor

from tats_ray.geometry import TokenGrid
from tats_ray.masking.all_hidden import AllHidden
from tats_ray.masking.draws import TARGETS, exponential_clocks
from tats_ray.masking.important import Important, ImportantConfig
from tats_ray.masking.plan import MaskPlan
from tats_ray.masking.planner import MaskPlanner, RandomRule, TubeRule
from tats_ray.masking.pool import PoolConfig, PoolRest, PoolRule
from tats_ray.masking.random_share import RandomShare, RandomShareConfig
from tats_ray.masking.running_cell import RunningCell, RunningCellConfig
from tats_ray.masking.targets import Mode, TargetRule
from tats_ray.masking.uniform_slices import UniformSlices, UniformSlicesConfig

GRID = TokenGrid(time=5, height=4, width=4)
VISIBLE, ROWS = 8, 64
CPU = torch.device("cpu")
Make = Callable[[TokenGrid, int], TargetRule]


def of(kind: Callable, config: object) -> Make:
    return lambda grid, visible: kind(config, grid=grid, visible=visible)


RULES: Mapping[str, Make] = {
    "all hidden": lambda grid, visible: AllHidden(grid=grid, visible=visible),
    "running cell": of(RunningCell, RunningCellConfig()),
    "running cell, 3": of(RunningCell, RunningCellConfig(per_cell=3)),
    "random, disjoint": of(RandomShare, RandomShareConfig()),
    "random, overlap": of(RandomShare, RandomShareConfig(mode="overlap")),
    # Every second slot: 48 or 32 of 80 tokens. 16 are fewer than either, 40 more than one of them.
    "slices, trimmed": of(UniformSlices, UniformSlicesConfig(every=2, share=0.2)),
    "slices, trimmed or padded": of(UniformSlices, UniformSlicesConfig(every=2, share=0.5)),
    "slices, padded, overlap": of(UniformSlices, UniformSlicesConfig(every=4, share=0.5, mode="overlap")),
    "important, disjoint": of(Important, ImportantConfig()),
    "important, overlap": of(Important, ImportantConfig(mode="overlap")),
    "important alone": of(Important, ImportantConfig(top_share=0.15, random_share=0)),
    "important, in windows": of(Important, ImportantConfig(windows=5)),
    "important, in windows, overlap": of(Important, ImportantConfig(windows=5, mode="overlap")),
}
COUNTS = {
    "all hidden": 72, "running cell": 40, "running cell, 3": 60, "random, disjoint": 12, "random, overlap": 12,
    "slices, trimmed": 16, "slices, trimmed or padded": 40, "slices, padded, overlap": 40, "important, disjoint": 12,
    "important, overlap": 12, "important alone": 12,
    "important, in windows": 9, "important, in windows, overlap": 9,
}  # fmt: skip
OVERLAPPING = {name for name in RULES if "overlap" in name or "running" in name}


def noise(rows: int, *, step: int) -> Tensor:
    return exponential_clocks((rows, GRID.num_tokens), seed=0, step=step, device=CPU)


def target_noise(rows: int, *, step: int) -> Tensor:
    return exponential_clocks((rows, GRID.num_tokens + 1), seed=0, step=step + TARGETS, device=CPU)


def importance(rows: int) -> Tensor:
    return torch.rand(rows, GRID.num_tokens, generator=torch.Generator().manual_seed(5))


def planner(name: str) -> MaskPlanner:
    rule = RandomRule(GRID, 0.9)
    return MaskPlanner(rule, GRID, RULES[name](GRID, rule.count))


def plan(name: str, *, rows: int = ROWS, step: int = 0, target_step: int | None = None) -> MaskPlan:
    return planner(name).plan(
        None,
        noise(rows, step=step),
        importance=importance(rows),
        target_clocks=target_noise(rows, step=step if target_step is None else target_step),
    )


def as_flags(idx: Tensor, value: Tensor | float = 1.0) -> Tensor:
    value = value if isinstance(value, Tensor) else torch.full(idx.shape, value)
    return torch.zeros(len(idx), GRID.num_tokens).scatter_(1, idx, value)


@pytest.mark.parametrize("name", RULES)
def test_sets_are_sorted_and_of_equal_count_and_visible_targets_weigh_nothing(name: str) -> None:
    made = plan(name)
    assert made.target_idx.shape == (ROWS, COUNTS[name])
    assert made.target_idx.dtype == torch.int64
    assert made.visible_idx.shape == (ROWS, VISIBLE)
    for idx in (made.visible_idx, made.target_idx):
        assert (idx.diff(dim=1) > 0).all()
        assert ((idx >= 0) & (idx < GRID.num_tokens)).all()
    seen = as_flags(made.visible_idx).gather(1, made.target_idx)
    assert torch.equal(made.target_weight, 1 - seen)
    assert (made.target_weight.sum(1) > 0).all()
    assert bool(seen.any()) == (name in OVERLAPPING)


@pytest.mark.parametrize("name", RULES)
def test_a_clip_is_planned_alike_in_whatever_share_it_comes(name: str) -> None:
    whole, share = plan(name), torch.tensor([9, 2, 15])
    part = planner(name).plan(
        None,
        noise(ROWS, step=0)[share],
        importance=importance(ROWS)[share],
        target_clocks=target_noise(ROWS, step=0)[share],
    )
    assert torch.equal(part.target_idx, whole.target_idx[share])
    assert torch.equal(part.decode_weight, whole.decode_weight[share])


@pytest.mark.parametrize("name", RULES)
def test_only_rules_that_draw_choose_others_in_another_step(name: str) -> None:
    first, second = plan(name, target_step=0), plan(name, target_step=1)
    assert torch.equal(first.visible_idx, second.visible_idx)
    assert torch.equal(first.target_idx, second.target_idx) == (name in ("all hidden", "important alone"))


@pytest.mark.parametrize("name", [name for name in RULES if name != "important alone"])
def test_the_inverse_chances_of_every_hidden_token_average_to_one(name: str) -> None:
    """Over a rule's own draws, the visible tokens and the importance of a clip held fixed."""
    rows, made = 40_000, planner(name)
    hidden = as_flags(plan(name, rows=1).visible_idx).expand(rows, -1) == 0
    chosen = made.target.choose(hidden, target_noise(rows, step=3), importance(1).expand(rows, -1))
    chance = torch.ones(chosen.idx.shape) if chosen.decode_chance is None else chosen.decode_chance
    weight = as_flags(chosen.idx, 1 / chance).double()[:, hidden[0]]
    deviation = weight.std(0) / rows**0.5
    # 72 means, each within 4.5 standard errors: missed by 1 seed in 2,000; the seed is fixed.
    assert ((weight.mean(0) - 1).abs() <= 4.5 * deviation + 1e-6).all()
    assert (deviation.max() > 0) == made.target.draws


@pytest.mark.parametrize("name", ["random, disjoint", "slices, trimmed or padded", "important, disjoint"])
def test_the_stratified_mean_is_that_of_all_hidden_tokens(name: str) -> None:
    rows = 20_000
    error = torch.rand(1, GRID.num_tokens, generator=torch.Generator().manual_seed(2)) + importance(
        1
    )  # salient is hard
    visible_idx = plan(name, rows=1).visible_idx
    hidden = as_flags(visible_idx) == 0
    chosen = planner(name).target.choose(
        hidden.expand(rows, -1), target_noise(rows, step=4), importance(1).expand(rows, -1)
    )
    assert chosen.decode_chance is not None
    weighted = (error.expand(rows, -1).gather(1, chosen.idx) / chosen.decode_chance).sum(1) / hidden.sum()
    gap = weighted.mean() - error[hidden].mean()
    assert gap.abs() < 4 * weighted.std() / rows**0.5
    if name == "important, disjoint":  # what the plain mean of the decoded tokens would say is another number
        plain = error.expand(rows, -1).gather(1, chosen.idx).mean(1)
        assert (plain.mean() - error[hidden].mean()).abs() > 20 * plain.std() / rows**0.5


def test_over_four_slots_every_site_is_predicted_equally_often() -> None:
    grid = TokenGrid(time=5, height=2, width=8)  # wider than high, of as many tokens as GRID
    for per_cell in (1, 2, 3):
        rule = RunningCell(RunningCellConfig(per_cell=per_cell), grid=grid, visible=VISIBLE)
        idx = rule.choose(torch.ones(ROWS, grid.num_tokens, dtype=torch.bool), target_noise(ROWS, step=0), None).idx
        predicted = as_flags(idx).view(ROWS, grid.time, grid.height, grid.width)
        assert (predicted[:, :4].sum(1) == per_cell).all()
        assert torch.equal(predicted[:, 0], predicted[:, 4])
        cells = predicted.view(ROWS, grid.time, 1, 2, 4, 2).sum((3, 5))
        assert (cells == per_cell).all()


def test_running_cells_by_hand() -> None:
    grid = TokenGrid(time=3, height=2, width=2)
    rule = RunningCell(RunningCellConfig(), grid=grid, visible=1)
    clocks = torch.full((2, 13), 9.0)
    clocks[:, -1] = torch.tensor([0.0, 20.0])  # begins at place 0, and three on
    idx = rule.choose(torch.ones(2, 12, dtype=torch.bool), clocks, None).idx.sort(1).values
    assert idx.tolist() == [[0, 1, 5, 6, 10, 11], [1, 2, 6, 7, 8, 11]]


def test_slices_are_whole_and_evenly_spaced_where_the_budget_is_theirs() -> None:
    grid = TokenGrid(time=6, height=2, width=2)
    rule = UniformSlices(UniformSlicesConfig(every=3, share=1 / 3, mode="overlap"), grid=grid, visible=1)
    clocks = exponential_clocks((200, 25), seed=0, step=0, device=CPU)
    slots = rule.choose(torch.ones(200, 24, dtype=torch.bool), clocks, None).idx.sort(1).values // 4
    assert {tuple(row) for row in slots.tolist()} == {(t,) * 4 + (t + 3,) * 4 for t in range(3)}


def test_the_most_important_are_chosen_and_the_random_share_is_of_the_others() -> None:
    for mode in ("overlap", "disjoint"):
        config, rank = ImportantConfig(mode=mode), importance(ROWS)
        rule = Important(config, grid=GRID, visible=VISIBLE)
        assert (rule.top, rule.random) == (8, 4)  # floor(.10 N) and floor(.05 N)
        hidden = as_flags(plan("important, overlap").visible_idx) == 0
        drawn = [rule.choose(hidden, target_noise(ROWS, step=step), rank).idx for step in (0, 1)]
        for row in range(ROWS):
            allowed = [i for i in range(GRID.num_tokens) if mode == "overlap" or hidden[row, i]]
            best = sorted(allowed, key=lambda i: -float(rank[row, i]))[:8]
            for idx in drawn:
                assert set(idx[row, :8].tolist()) == set(best)
                others = set(idx[row, 8:].tolist())
                assert len(others) == 4
                assert others <= set(allowed) - set(best)
        assert not torch.equal(drawn[0][:, 8:], drawn[1][:, 8:])


@pytest.mark.parametrize("mode", ["overlap", "disjoint"])
def test_each_window_gives_as_many_of_its_most_important(mode: Mode) -> None:
    grid, rank = TokenGrid(time=6, height=4, width=4), torch.rand(ROWS, 96, generator=torch.Generator().manual_seed(1))
    rule = Important(ImportantConfig(windows=3, mode=mode), grid=grid, visible=9)
    assert (rule.top, rule.random) == (9, 4)  # 3 * floor(.10 * 32) and floor(.05 * 96)
    hidden = torch.ones(ROWS, 96).scatter_(1, rank.flip(1).topk(9, dim=1).indices, 0) == 1
    idx = rule.choose(hidden, exponential_clocks((ROWS, 97), seed=0, step=0, device=CPU), rank).idx
    for row in range(ROWS):
        allowed = [i for i in range(96) if mode == "overlap" or hidden[row, i]]
        best = set[int]()
        for window in range(3):
            mine = [i for i in allowed if i // 32 == window]
            best |= set(sorted(mine, key=lambda i: -float(rank[row, i]))[:3])
        assert set(idx[row, :9].tolist()) == best
        assert set(idx[row, 9:].tolist()) <= set(allowed) - best


def test_equally_important_tokens_are_taken_in_the_order_of_the_grid() -> None:
    rule = Important(ImportantConfig(), grid=GRID, visible=VISIBLE)
    hidden = torch.ones(1, GRID.num_tokens, dtype=torch.bool)
    hidden[0, 1] = False
    idx = rule.choose(hidden, target_noise(1, step=0), torch.zeros(1, GRID.num_tokens)).idx
    assert idx[0, :8].tolist() == [0, 2, 3, 4, 5, 6, 7, 8]


def test_budgets_at_full_size() -> None:
    """128 frames at 224 pixels, of whose 12,544 tokens tubes leave 20 sites of 196 visible."""
    grid = TokenGrid(time=64, height=14, width=14)
    visible = TubeRule(grid, 0.9).count
    assert visible == 1280
    important = Important(ImportantConfig(mode="overlap"), grid=grid, visible=visible)
    assert (important.top, important.random, important.count) == (1254, 627, 1881)
    assert RandomShare(RandomShareConfig(), grid=grid, visible=visible).count == 1881
    assert UniformSlices(UniformSlicesConfig(), grid=grid, visible=visible).count == 1881
    assert RunningCell(RunningCellConfig(), grid=grid, visible=visible).count == 6272


@pytest.mark.parametrize("ratio", [0.75, 0.9])
def test_visible_tokens_and_targets_make_up_the_pool(ratio: float) -> None:
    visible = RandomRule(GRID, ratio).count
    rule = PoolRule(PoolConfig(share=0.3), grid=GRID, count=visible)
    made = MaskPlanner(rule, GRID, PoolRest(rule)).plan(None, noise(ROWS, step=0), importance=importance(ROWS))
    assert made.visible_idx.shape == (ROWS, visible)
    pool = importance(ROWS).topk(24, dim=1).indices.sort(1).values
    assert torch.equal(torch.cat([made.visible_idx, made.target_idx], 1).sort(1).values, pool)
    again = rule.choose(None, noise(ROWS, step=1), importance(ROWS))[0].sort(1).values
    assert not torch.equal(again, made.visible_idx)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_importance_that_is_no_number_is_refused(bad: float) -> None:
    rank = importance(2)
    rank[1, 3] = bad
    rule = Important(ImportantConfig(), grid=GRID, visible=VISIBLE)
    with pytest.raises(ValueError, match="importance must be finite, got 1 of 160"):
        rule.choose(torch.ones(2, GRID.num_tokens, dtype=torch.bool), target_noise(2, step=0), rank)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (of(RandomShare, RandomShareConfig(share=0.01)), r"share must come to at least one token, got 0.01 of 80"),
        (of(Important, ImportantConfig(random_share=0.01)), r"random_share must come to at least one token, got 0.01"),
        (of(RandomShare, RandomShareConfig(share=0.95)), r"takes 76 of 72 hidden tokens; take a smaller share"),
        (of(Important, ImportantConfig(top_share=0.9, random_share=0.2, mode="overlap")), r"takes 88 of 80 tokens"),
        (
            of(RandomShare, RandomShareConfig(share=0.1, mode="overlap")),
            r"takes 8 tokens .* and 8 are visible.*disjoint",
        ),
        (
            of(Important, ImportantConfig(windows=2)),
            r"windows must divide the clip's 5 time slots, got 2; choose .* 1, 5$",
        ),
        (
            of(Important, ImportantConfig(windows=5, top_share=0.6)),
            r"windows=5 takes 9 hidden tokens of each window, where 8 of 16 are sure to be hidden",
        ),
        (of(UniformSlices, UniformSlicesConfig(every=6)), r"every must be at most the 5 time slots of a clip, got 6"),
        (lambda grid, visible: PoolRule(PoolConfig(share=0.1), grid=grid, count=visible), r"pool of more .* 8 visible"),
    ],
)
def test_what_cannot_be_chosen_is_refused_with_a_way_out(make: Make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(GRID, VISIBLE)


def test_running_cells_need_even_rows_and_columns() -> None:
    make = partial(RunningCell, RunningCellConfig(), visible=1)
    with pytest.raises(ValueError, match=r"even rows and columns, got 3 x 4; .*random-share"):
        make(grid=TokenGrid(time=4, height=3, width=4))


def test_a_rule_that_draws_asks_for_noise() -> None:
    with pytest.raises(ValueError, match="target_clocks is None"):
        planner("random, disjoint").plan(None, noise(2, step=0))
