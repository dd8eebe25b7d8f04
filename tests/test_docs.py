"""The pages say what the code does: metric names, links, files, tests and the worked example are checked against it."""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from tats_ray.data.loader import StepShare
from tats_ray.geometry import TokenGrid
from tats_ray.masking import fixed, planner
from tats_ray.masking.adamae import AdaMAEConfig
from tats_ray.masking.draws import exponential_clocks
from tats_ray.masking.fixed import RandomConfig
from tats_ray.masking.tats import SwitchConfig, TATSConfig
from tats_ray.methods.base import HeldOut
from tats_ray.methods.build import VisibleConfig
from tats_ray.methods.tokenizer import TokenizerTraining, build_tokenizer
from tats_ray.rl.ppo import PPOConfig
from tats_ray.tokenizer.adversarial import LossConfig
from tats_ray.tokenizer.model import TokenizerConfig
from tats_ray.tracking.base import NullTracker
from tats_ray.training import loop
from tats_ray.training.config import TrainingConfig
from tats_ray.training.context import LocalContext
from tats_ray.training.loop import Job, LoopState, train
from tats_ray.training.probe import ProbeClips

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CODE = ("tats_ray", "pipelines", "tune_spaces", "tests", "benchmarks")
PAGES = sorted(
    path
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md"))
    if path.exists()
)
STEPS = 8
# The critic starts at step 2, the policy at step 4; a target of almost no KL ends every update early.
TATS = TATSConfig(
    embed_dim=8,
    num_heads=2,
    switch=SwitchConfig(error_spread=1e9, explained_variance=0.99, critic_by=2 / STEPS, policy_by=4 / STEPS),
    ppo=PPOConfig(rollout_steps=2, update_epochs=2, target_nats=0.1, target_kl=1e-12),
)
# Has a metric of its own, and no temperature to adapt.
ORDER = TATS.model_copy(
    update={"objective": "order-low-error", "ppo": PPOConfig(rollout_steps=2, update_epochs=2, target_kl=1e-12)}
)
KINDS: tuple[VisibleConfig, ...] = (TATS, ORDER, AdaMAEConfig(num_heads=2), RandomConfig())


class Names(NullTracker):
    """Keeps the names under which something was logged."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.seen |= set(metrics)


@pytest.fixture(scope="module")
def logged(
    grid: TokenGrid,
    make_method: Callable,
    make_stepper: Callable,
    make_batch: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> set[str]:
    """Names that runs of every kind log, TATS through its three stages."""
    context, names = LocalContext(torch.device("cpu")), Names()
    share = torch.full((4, grid.num_tokens), 0.5)
    clocks = exponential_clocks((4, grid.num_tokens), seed=0, step=-1, device=context.device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_pictures", lambda snapshot, folder, *, step: [])
        for method in [*(make_method(kind, total_steps=STEPS) for kind in KINDS), tokenizer_method(grid)]:
            job = Job(
                method=method,
                stepper=make_stepper(method, context=context),
                context=context,
                tracker=names,
                config=TrainingConfig(steps=STEPS, global_batch=8, precision="fp32", validate_every=2),
                held_out=HeldOut(
                    make_batch(range(4), seed=77), clocks, {"mover": share, "twin": share}, labels=torch.arange(4) % 2
                ),
                probe=ProbeClips(make_batch(range(8), seed=78).video, torch.arange(8) % 2),
                total_steps=STEPS,
                seed=0,
                log_every=2,
                on_error="skip",
                max_failed_share=0.0,
                folder=tmp_path_factory.mktemp("run"),
                run_id=None,
                flops=lambda stage: 1.0,
                peak_flops=1.0,
            )
            train(
                job,
                LoopState(),
                [StepShare([make_batch(range(8), seed=step)], [], [False] * 8) for step in range(STEPS)],
            )
    return names.seen


def tokenizer_method(grid: TokenGrid) -> TokenizerTraining:
    """A tokenizer with every loss that there is."""
    config = TokenizerConfig(base_channels=2, channel_multipliers=(1, 1, 1), residual_blocks=1, samples=2)
    losses = LossConfig(adversarial_weight=0.1, discriminator_channels=1)
    method = build_tokenizer(config, losses, grid=grid, total_steps=STEPS)
    method.perceptual = lambda rebuilt, real: (rebuilt - real).square().flatten(1).mean(1)
    return method


def documented() -> set[str]:
    """Names in the first column of the tables of ``metrics.md``."""
    return set(re.findall(r"^\| `([^`]+)`", (DOCS / "metrics.md").read_text(), flags=re.MULTILINE))


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_every_logged_metric_is_documented(logged: set[str]) -> None:
    assert sorted(logged - documented()) == []


def test_every_documented_metric_is_logged(logged: set[str]) -> None:
    assert sorted(documented() - logged) == []


def test_metrics_that_the_code_names_are_documented() -> None:
    """Names, and beginnings of names, that a setting, a table or a summary reads, wherever in the code."""
    groups = "|".join({name.split("/")[0] for name in documented()})
    found = {
        node.value
        for folder in CODE
        if folder != "tests"
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(rf"({groups})/[a-z_]+", node.value)
    }
    assert found
    known = documented()
    begun = {name for name in found if any(whole.startswith(f"{name.rstrip('_')}_") for whole in known)}
    assert sorted(found - known - begun) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    inside = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert not [target for target in inside if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_tests_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`([^`\s]+)`", prose(page))
    files = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    tests = {name for path in files if "tests" in path.relative_to(ROOT).parts for name in functions(path)}
    known = {f"/{path.relative_to(ROOT).as_posix()}" for path in files}
    missing = [name for name in named if name.endswith(".py") and not any(path.endswith(f"/{name}") for path in known)]
    assert not missing + [name for name in named if re.fullmatch(r"test_\w+", name) and name not in tests]


def test_the_worked_example_keeps_the_laws_of_plans() -> None:
    """Run the example's blocks in their files' own names, and then its test."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "adding_a_masking_strategy.md").read_text(), re.M | re.S)
    grid = TokenGrid(time=4, height=3, width=5)
    clocks = exponential_clocks((16, grid.num_tokens), seed=0, step=0, device=torch.device("cpu"))
    names = {**vars(fixed), **vars(planner), "GRID": grid, "clocks": lambda: clocks}
    for block in blocks:
        exec(block, names)  # the page is ours
    assert names["StrideConfig"](stride=2).kind == "stride"
    for ratio in (0.1, 0.5, 0.8, 0.9):
        rule = names["StrideRule"](grid, ratio, stride=2)
        plan = planner.MaskPlanner(rule, grid).plan(None, clocks)
        both = torch.cat([plan.visible_idx, plan.target_idx], 1).sort(1).values
        assert torch.equal(both, torch.arange(grid.num_tokens).expand(16, -1))
    (own,) = (value for name, value in names.items() if name.startswith("test_"))
    own()


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Public functions and classes of a file, and the public methods of its public classes."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}{node.name}.")


@pytest.mark.parametrize("room", ["rl", "masking", "methods"])
def test_public_functions_have_docstrings(room: str) -> None:
    bare = [
        f"{path.name}: {name}"
        for path in sorted((ROOT / "tats_ray" / room).glob("*.py"))
        for name, node in public(ast.parse(path.read_text()).body)
        if ast.get_docstring(node) is None
    ]
    assert not bare
