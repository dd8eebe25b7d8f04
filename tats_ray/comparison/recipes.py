"""Comparisons by name: each docstring states what it is for and what it takes."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from tats_ray.comparison.plan import Arm, Comparison
from tats_ray.config.overrides import change
from tats_ray.recipes import recipe
from tats_ray.recipes.named import named

VISIBLE = "masking.visible"


def _arm(name: str, kind: str, *, oracle: bool = False, **knobs: object) -> Arm:
    """Return an arm from a kind and settings of its slot, whose dots are written as two underscores."""
    slot = {f"{VISIBLE}.{path.replace('__', '.')}": value for path, value in knobs.items()}
    return Arm(name, {f"{VISIBLE}.kind": kind, **slot}, oracle=oracle)


SAMPLERS = {
    arm.name: arm
    for arm in (
        _arm("random", "random"),
        _arm("tube", "tube"),
        _arm("frame-difference", "frame-difference", lift=2.0, oracle=True),
        _arm("frame-difference-1.5", "frame-difference", lift=1.5, oracle=True),
        _arm("frame-difference-3", "frame-difference", lift=3.0, oracle=True),
        _arm("oracle", "oracle", lift=2.0, oracle=True),
        _arm("oracle-1.5", "oracle", lift=1.5, oracle=True),
        _arm("oracle-3", "oracle", lift=3.0, oracle=True),
        _arm("adamae", "adamae"),
        _arm("tats", "tats"),
        _arm("tats-tau-1", "tats", ppo__temperature=1.0),
        _arm("tats-tau-0.3", "tats", ppo__temperature=0.3),
        _arm("regress", "tats", objective="regress"),
        _arm("surrogate", "tats", objective="surrogate"),
        _arm("order-low-error", "tats", objective="order-low-error"),
        _arm("order-high-error", "tats", objective="order-high-error"),
    )
}
"""Every sampler that goes by a name on the command line."""


SHARED = (
    ("data.cache", "memory"),
    ("training.picture_every", None),
    ("training.keep_checkpoints", 1),
    ("cluster.num_workers", 0),
    # After the warm-up errors have spread: the critic starts at the first check, the policy soon after.
    (f"{VISIBLE}.switch.critic_by", 0.1),
    (f"{VISIBLE}.switch.policy_by", 0.25),
)
"""Of the run that the arms share, in every comparison."""


def _long(name: str, frames: int, target: Mapping[str, object], *, ranked: bool = False) -> Arm:
    """Return an arm of long or short clips, with as many tokens a step whatever the frames of a clip.

    Visible tokens are random, not tubes: of the 16 sites of so small a frame one would be seen, from which nothing
    about the others can be learnt.
    """
    batch = LONG_BATCH * LONG_FRAMES // frames
    return Arm(
        name,
        {
            f"{VISIBLE}.kind": "random",
            "masking.importance.kind": "frame-difference" if ranked else "none",
            **{f"masking.target.{path}": value for path, value in target.items()},
            "data.num_frames": frames,
            "training.global_batch": batch,
            "training.micro_batch": batch,
            "optim.base_learning_rate": LONG_RATE * 256 / batch,  # one rate for all, whatever the batch
        },
    )


LONG_FRAMES, SHORT_FRAMES = 128, 32
LONG_BATCH = 8
"""Clips of LONG_FRAMES in a step."""
LONG_RATE = 1.5e-3
TARGETS = {
    arm.name: arm
    for arm in (
        _long("dense-128", LONG_FRAMES, {"kind": "all-hidden"}),
        _long("random-128", LONG_FRAMES, {"kind": "random-share"}),
        _long("slices-128", LONG_FRAMES, {"kind": "uniform-slices"}),
        _long("adaptive-128", LONG_FRAMES, {"kind": "important"}, ranked=True),
        _long("adaptive-32", SHORT_FRAMES, {"kind": "important"}, ranked=True),
    )
}
"""What the decoder predicts of clips of so many frames: everything hidden, or 15 % of all tokens."""
ARMS = SAMPLERS | TARGETS


def tiny() -> Comparison:
    """Random, tube, frame difference, AdaMAE and TATS at 0.9 and 0.95, 3 seeds, 288 tokens; an hour on 2 cores."""
    run = change(
        recipe("tiny"),
        [
            *SHARED,
            ("name", "compare-tiny"),
            ("data.crop_size", 48),
            ("data.frame_stride", 2),
            ("training.global_batch", 32),
            ("training.micro_batch", 32),
            ("training.checkpoint_every", 400),
            ("tracking.log_every", 50),
            # 1.5e-3 for 32 clips. Whether the features collapse depends on the seed even so: docs/reference_curves.md.
            ("optim.base_learning_rate", 1.2e-2),
            ("optim.base_min_learning_rate", 0.0),
        ],
    )
    return Comparison(
        run=run,
        arms=[SAMPLERS[name] for name in ("random", "tube", "frame-difference", "adamae", "tats")],
        ratios=(0.9, 0.95),
        seeds=(0, 1, 2),
        warm_steps=1000,
        critic_steps=100,
        steps=600,
        cooldown_steps=120,
        references=("random", "tube"),
        probes={"segments": 2, "crops": 1},
    )


def small() -> Comparison:
    """The same with ViT-S, 16 x 112^2 in patches of 8 (1,568 tokens), 400 epochs of 600 videos; one GPU, hours."""
    run = change(
        recipe("tats-small"),
        [
            *SHARED,
            ("name", "compare-small"),
            ("data.flip", True),
            ("training.global_batch", 64),
            ("training.micro_batch", 64),
            ("training.checkpoint_every", 500),
            ("optim.base_learning_rate", 1.2e-3),
        ],
    )
    return replace(tiny(), run=run, warm_steps=1500, critic_steps=150, steps=2500, cooldown_steps=500)


def oracles() -> Comparison:
    """Random, TATS and oracles of lift 1.5, 2 and 3 on synthetic videos of classes of motion; 2 cores, an hour."""
    base = tiny()
    names = ("random", "oracle-1.5", "oracle", "oracle-3", "tats")
    return replace(
        base,
        # Every third frame: from one to the next things move too little, at 48 pixels, for probes to tell directions.
        run=change(base.run, [("name", "compare-oracles"), ("data.frame_stride", 3)]),
        arms=[SAMPLERS[name] for name in names],
        references=("random",),
    )


def long() -> Comparison:
    """Which tokens of 128 frames to predict, and 128 frames or 32, at equal tokens, 3 seeds; 2 cores, half an hour.

    All arms go on from 32 frames with all hidden tokens predicted, at as many tokens a step, and are judged on 128
    frames. For videos whose class is an order over many frames: ``make_videos.py --events --frames 128``.
    """
    start = _long("start", SHORT_FRAMES, {"kind": "all-hidden"})
    run = change(
        recipe("lvmae-tiny"),
        [
            *start.knobs.items(),
            ("name", "compare-long"),
            ("data.cache", "memory"),
            ("training.picture_every", None),
            ("training.keep_checkpoints", 1),
            ("training.checkpoint_every", 100),
            ("training.validate_every", 50),
            ("tracking.log_every", 50),
            ("cluster.num_workers", 0),
            ("optim.base_min_learning_rate", 0.0),
        ],
    )
    return Comparison(
        run=run,
        arms=list(TARGETS.values()),
        ratios=(0.9,),
        seeds=(0, 1, 2),
        warm_steps=1000,  # the error leaves its plateau near step 300
        steps=400,
        cooldown_steps=80,
        references=("random-128", "dense-128"),
        tasks=("ridge", "attentive"),
        probes={"segments": 1, "crops": 1, "num_frames": LONG_FRAMES, "token_ratios": (1.0,)},
    )


def objectives() -> Comparison:
    """TATS, what it converges to, and other objectives and temperatures on the same network; 2 cores, two hours."""
    base = tiny()
    names = (
        "random",
        "tats",
        "tats-tau-1",
        "tats-tau-0.3",
        "regress",
        "surrogate",
        "order-low-error",
        "order-high-error",
        "adamae",
    )
    return replace(
        base,
        run=change(base.run, [("name", "compare-objectives")]),
        arms=[SAMPLERS[name] for name in names],
        ratios=(0.95,),
        references=("random", "tats"),
    )


RECIPES: dict[str, Callable[[], Comparison]] = {
    "tiny": tiny,
    "small": small,
    "oracles": oracles,
    "objectives": objectives,
    "long": long,
}


def comparison(name: str) -> Comparison:
    """Return the comparison that goes by a name.

    Raises:
        ConfigError: There is none.
    """
    return named(name, RECIPES, what="comparison")()


def sampler(name: str) -> Arm:
    """Return the sampler that goes by a name.

    Raises:
        ConfigError: There is none.
    """
    return named(name, ARMS, what="sampler")
