"""What a comparison of samplers runs: the same start, the same clips in the same order, and what each costs.

For each seed one warm-up with random masks, which counts for all. Near its end the critic of TATS may learn as well,
which counts for the arms that take it over. From its weights each sampler (an *arm*) goes on at each mask ratio, with
the same clips in the same order, at a constant rate that a cool-down ends: the comparison at **equal clips**. A sampler
costs FLOPs of its own. So a dearer arm is also cut where it has cost, with its cool-down, what the reference has: the
comparison at **equal FLOPs**. A cut goes on from a checkpoint of the long run and is, bit for bit, the run that was
short from the beginning.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from tats_ray.config.error import ConfigError
from tats_ray.config.overrides import change
from tats_ray.config.run import TrainRun
from tats_ray.masking.tats import TATSConfig
from tats_ray.methods.build import training_flops
from tats_ray.rl.choice import WITH_CLIP_VALUE

Budget = Literal["clips", "flops"]
Stage = Literal["warm-up", "full", "cut"]

VISIBLE = "masking.visible"
CUT_MARGIN = 0.01
"""An arm whose steps cost at most this share more than the reference's is not cut: its counts are equal as they are."""


@dataclass(frozen=True)
class Arm:
    """One sampler."""

    name: str
    knobs: Mapping[str, Any]
    """Dotted path to value."""
    oracle: bool = False
    """Whether it is told what moves: what no sampler that learns can be expected to exceed."""


@dataclass(frozen=True)
class Comparison:
    """A comparison as a declaration."""

    run: TrainRun
    """What all arms share; its name is the comparison's, and the plan sets seed, mask ratio, sampler and length."""
    arms: Sequence[Arm]
    ratios: Sequence[float]
    seeds: Sequence[int]
    warm_steps: int
    """Steps of the warm-up with random masks."""
    steps: int
    """Steps of each arm after it."""
    cooldown_steps: int
    """Of these, steps in which the learning rate falls."""
    warm_ratio: float = 0.9
    """Mask ratio of the warm-up."""
    critic_steps: int = 0
    """Of the warm-up's steps, how many at its end teach the critic of TATS, while masks stay random."""
    references: Sequence[str] = ("random",)
    """Arms that the others are compared with; the first sets the FLOPs."""
    tasks: Sequence[str] = ("ridge", "attentive", "knn")
    """Probes that judge."""
    probes: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the probes, by dotted path."""

    @property
    def name(self) -> str:
        """Of the comparison; the runs' begin with it."""
        return self.run.name


@dataclass(frozen=True)
class PlannedRun:
    """One training run of a comparison."""

    run: TrainRun
    """Complete but for ``init``, which is known when ``after`` is done."""
    stage: Stage
    after: str | None
    """Name of the run that it goes on from."""
    steps: int
    """Steps that it trains itself."""
    flops: float
    """Counted for these steps, the sampler taken as on from the first: an upper bound."""
    critic_flops: float = 0.0
    """Counted beside them for a critic that learns in a warm-up; they count for the arms that take it over."""

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.run.name


@dataclass(frozen=True)
class Entry:
    """One number of seeds, arms, ratios and budgets: which run's end is judged."""

    arm: str
    ratio: float
    seed: int
    budget: Budget
    run: str


@dataclass(frozen=True)
class Plan:
    """All runs, each after those it goes on from, and what is judged."""

    comparison: Comparison
    runs: Mapping[str, PlannedRun]
    entries: Sequence[Entry]

    @property
    def flops(self) -> float:
        """Of all training."""
        return sum(planned.flops + planned.critic_flops for planned in self.runs.values())

    def warm_flops(self, name: str) -> float:
        """Return what the warm-up behind a run counts for it: a critic only where it is taken over."""
        first = self.runs[name]
        while first.after is not None:
            first = self.runs[first.after]
        return first.flops + (first.critic_flops if _critic_shape(self.runs[name].run) else 0.0)


def plan(comparison: Comparison) -> Plan:
    """Lay out all runs of a comparison.

    Raises:
        ConfigError: Arms, ratios or lengths that make no comparison.
    """
    _check(comparison)
    runs: dict[str, PlannedRun] = {}
    entries: list[Entry] = []
    learners = _learners(comparison)
    for seed in comparison.seeds:
        warm_ups = {name: _warm_up(comparison, name, seed=seed) for name in dict.fromkeys(learners.values())}
        runs |= {warm.name: warm for warm in warm_ups.values()}
        for ratio in comparison.ratios:
            for arm in comparison.arms:
                warm = warm_ups[learners[arm.name]]
                full, cut = _branch(comparison, arm, ratio=ratio, seed=seed, warm=warm)
                runs[full.name] = full
                entries.append(Entry(arm.name, ratio, seed, "clips", full.name))
                if cut is not None:
                    runs[cut.name] = cut
                entries.append(Entry(arm.name, ratio, seed, "flops", (cut or full).name))
    return Plan(comparison, runs, entries)


def described(plan: Plan) -> str:
    """Return everything that a plan depends on, as text: two plans with the same are the same."""
    comparison = asdict(replace(plan.comparison, run=None))  # type: ignore[arg-type]
    runs = {name: planned.run.model_dump(mode="json") for name, planned in plan.runs.items()}
    return json.dumps({"comparison": comparison, "runs": runs}, indent=1, sort_keys=True)


def cost_rows(plan: Plan) -> list[dict[str, str]]:
    """Return what a run of each arm at each ratio costs, as text by column."""
    return [
        {
            "sampler": arm.name,
            "ratio": f"{ratio:g}",
            "GFLOPs a step": f"{step_flops(full.run) / 1e9:,.4g}",
            "steps at equal clips": f"{full.run.training.steps:,}",
            "steps at equal FLOPs": f"{(cut or full).run.training.steps:,}",
        }
        for arm, ratio, full, cut in by_arm(plan)
    ]


def step_flops(run: TrainRun) -> float:
    """Return the counted FLOPs of one step with the sampler on."""
    flops = training_flops(run.model, run.masking, grid=run.grid)
    return run.training.global_batch * sum(flops.values())


def equal_flops_steps(comparison: Comparison, arm: Arm, *, ratio: float) -> int:
    """Return the steps after which an arm has cost what the first reference has after all of its steps."""
    reference = next(other for other in comparison.arms if other.name == comparison.references[0])
    budget = comparison.steps * step_flops(_of_arm(comparison, reference, ratio=ratio))
    own = _of_arm(comparison, arm, ratio=ratio)
    critic = _critic_flops(comparison, own) if _critic_shape(own) else 0.0
    return min(comparison.steps, int(max(0.0, budget - critic) // step_flops(own)))


def _check(comparison: Comparison) -> None:
    names = [arm.name for arm in comparison.arms]
    missing = [name for name in comparison.references if name not in names]
    if missing or not comparison.references:
        raise ConfigError(
            f"the references {list(comparison.references)} must be one or more of the samplers, which are {names}"
        )
    for what, values in (("samplers", names), ("ratios", comparison.ratios), ("seeds", comparison.seeds)):
        if len(set(values)) != len(values) or not values:
            raise ConfigError(f"{what} must be given, each once, got {list(values)}")
    if len(names) < 2:
        raise ConfigError(f"a comparison needs two samplers or more, got {names}")
    if comparison.warm_steps < 1:
        raise ConfigError(f"the warm-up must have at least 1 step, got {comparison.warm_steps}")
    if not 0 <= comparison.critic_steps < comparison.warm_steps:
        raise ConfigError(
            f"the critic's steps must be 0 or more and fewer than the warm-up's, got {comparison.critic_steps} of "
            f"{comparison.warm_steps}"
        )
    if not 0 < comparison.cooldown_steps < comparison.steps:
        raise ConfigError(
            f"the cool-down must have at least 1 step and fewer than the run, got {comparison.cooldown_steps} of "
            f"{comparison.steps} steps"
        )


def _warm_up(comparison: Comparison, learner: str | None, *, seed: int) -> PlannedRun:
    """Return a warm-up in which the critic of the arm ``learner`` learns; the autoencoder is the same in all."""
    arm = next((one for one in comparison.arms if one.name == learner), None)
    first = next((name for name in _learners(comparison).values() if name is not None), None)
    kind = "warm" if learner == first else f"warm-{learner}"
    run = change(
        comparison.run if arm is None else _of_arm(comparison, arm, ratio=comparison.warm_ratio),
        [
            ("name", f"{comparison.name}-{kind}-s{seed}"),
            ("seed", seed),
            ("masking.mask_ratio", comparison.warm_ratio),
            *({f"{VISIBLE}.kind": "random"} if arm is None else _critic_late(comparison)).items(),
            *_length(comparison.warm_steps, cooldown=0).items(),
        ],
    )
    flops = run.flops()
    clips = run.training.global_batch * comparison.warm_steps
    return PlannedRun(
        run,
        "warm-up",
        None,
        comparison.warm_steps,
        clips * (sum(flops.values()) - flops["sampler"]),
        critic_flops=0.0 if arm is None else _critic_flops(comparison, run),
    )


def _learners(comparison: Comparison) -> dict[str, str | None]:
    """Return whose critic learns in each arm's warm-up: the first arm's of its shape, or any one's for arms without."""
    if comparison.critic_steps == 0:
        return {arm.name: None for arm in comparison.arms}
    shapes = {arm.name: _critic_shape(change(comparison.run, arm.knobs.items())) for arm in comparison.arms}
    of_shape = {shape: name for name, shape in reversed(shapes.items()) if shape is not None}
    any_one = next((name for name, shape in shapes.items() if shape is not None), None)
    return {name: any_one if shape is None else of_shape[shape] for name, shape in shapes.items()}


def _critic_shape(run: TrainRun) -> tuple[object, ...] | None:
    """Return what two runs of TATS must share for one to take over the other's critic; None for other samplers."""
    visible = run.masking.visible
    if not isinstance(visible, TATSConfig):
        return None
    return visible.embed_dim, visible.num_heads, visible.objective in WITH_CLIP_VALUE


def _critic_late(comparison: Comparison) -> dict[str, Any]:
    """Return the knobs by which the critic starts late, whatever is measured, and the policy never draws."""
    return {
        f"{VISIBLE}.switch.error_spread": 1e6,
        f"{VISIBLE}.switch.critic_by": 1 - comparison.critic_steps / comparison.warm_steps,
        f"{VISIBLE}.switch.explained_variance": 0.999,
        f"{VISIBLE}.switch.policy_by": 1.0,
    }


def _critic_flops(comparison: Comparison, run: TrainRun) -> float:
    """Return what the critic's steps of the warm-up count, its draws included: an upper bound."""
    flops = training_flops(run.model, run.masking, grid=run.grid)
    return comparison.critic_steps * run.training.global_batch * flops["sampler"]


def _branch(
    comparison: Comparison, arm: Arm, *, ratio: float, seed: int, warm: PlannedRun
) -> tuple[PlannedRun, PlannedRun | None]:
    """Return an arm's full run, and its cut where it costs more than the reference."""
    steps, cooldown = comparison.steps, comparison.cooldown_steps
    short = equal_flops_steps(comparison, arm, ratio=ratio)
    if short <= cooldown:
        raise ConfigError(
            f"at equal FLOPs the sampler {arm.name} at ratio {ratio:g} gets {short} of {steps} steps, no more than its "
            f"cool-down of {cooldown}: take more steps, a shorter cool-down, or a smaller sampler"
        )
    of_arm = _of_arm(comparison, arm, ratio=ratio)
    per_step = step_flops(of_arm)
    name = f"{comparison.name}-{arm.name}-r{ratio:g}-s{seed}"
    common = [("name", name), ("seed", seed), *_length(steps, cooldown=cooldown).items()]
    full = change(of_arm, common)
    if short >= steps * (1 - CUT_MARGIN):
        return PlannedRun(full, "full", warm.name, steps, steps * per_step), None
    fork = short - cooldown - _rest(of_arm)
    full = change(full, [("training.keep_after", [max(1, fork)])])
    cut = change(
        full,
        [
            ("name", f"{name}-cut"),
            ("init_takes", "training"),
            ("training.keep_after", []),
            ("optim.warmup_share", 0.0),  # it is over where the cut begins
            *_length(short, cooldown=cooldown).items(),
        ],
    )
    return (
        PlannedRun(full, "full", warm.name, steps, steps * per_step),
        PlannedRun(cut, "cut", name, short - fork, (short - fork) * per_step),
    )


def _of_arm(comparison: Comparison, arm: Arm, *, ratio: float) -> TrainRun:
    return change(comparison.run, [*arm.knobs.items(), ("masking.mask_ratio", ratio)])


def _length(steps: int, *, cooldown: int) -> dict[str, Any]:
    """Return the knobs of a run so long."""
    return {
        "training.steps": steps,
        "training.epochs": None,
        "optim.schedule": "constant",
        "optim.cooldown_share": cooldown / steps,
    }


def _rest(run: TrainRun) -> int:
    """Return how many steps later than asked a checkpoint may be taken: until no rollout waits."""
    visible = run.masking.visible
    return visible.ppo.rollout_steps - 1 if isinstance(visible, TATSConfig) else 0


def by_arm(plan: Plan) -> Iterator[tuple[Arm, float, PlannedRun, PlannedRun | None]]:
    """Yield each arm at each ratio with its full run and its cut, of the first seed: what a run of it costs."""
    first = plan.comparison.seeds[0]
    for arm in plan.comparison.arms:
        for ratio in plan.comparison.ratios:
            ends = {
                entry.budget: plan.runs[entry.run]
                for entry in plan.entries
                if (entry.arm, entry.ratio, entry.seed) == (arm.name, ratio, first)
            }
            cut = ends["flops"] if ends["flops"].stage == "cut" else None
            yield arm, ratio, ends["clips"], cut
