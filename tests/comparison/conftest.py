"""A small comparison, and scores made up for its runs."""

import random
from collections.abc import Callable, Mapping

import pytest

from tats_ray.comparison.judging import POLICY_ON, Scored
from tats_ray.comparison.plan import Arm, Comparison, Plan, plan
from tats_ray.config.overrides import change
from tats_ray.recipes import recipe

KIND = "masking.visible.kind"
ARMS = (
    Arm("random", {KIND: "random"}),
    Arm("oracle", {KIND: "frame-difference"}, oracle=True),
    Arm("tats", {KIND: "tats"}),
)

Effects = Mapping[tuple[str, str], float]
"""What an arm adds to a metric, by arm and metric."""


@pytest.fixture(scope="session")
def small() -> Comparison:
    return Comparison(
        run=change(recipe("tiny"), [("name", "duel")]),
        arms=ARMS,
        ratios=(0.8, 0.9),
        seeds=(0, 1, 2),
        warm_steps=40,
        steps=100,
        cooldown_steps=10,
    )


@pytest.fixture(scope="session")
def planned(small: Comparison) -> Plan:
    return plan(small)


@pytest.fixture(scope="session")
def make_scores(planned: Plan) -> Callable[[Effects], dict[str, Scored]]:
    """Score every run: a base of each seed, an arm's effect, and some thousandths of noise of its own."""

    def make(effects: Effects) -> dict[str, Scored]:
        scores = {}
        for number, entry in enumerate(planned.entries):
            base = {"ridge/top1": 0.30 + 0.1 * entry.seed, "knn/top1": 0.20 + 0.05 * entry.seed}
            noise = random.Random(number).uniform(-0.002, 0.002)
            metrics = {name: value + effects.get((entry.arm, name), 0.0) + noise for name, value in base.items()}
            scores[entry.run] = Scored(
                metrics={**metrics, "random_mask_error_90": 0.7},
                summary={
                    "step": 100.0,
                    **({POLICY_ON: 20.0, "sampler/motion_lift": 1.5} if entry.arm == "tats" else {}),
                },
                flops=1e12,
                folder=f"/results/{entry.run}/0001",
                link=f"../../{entry.run}/0001",
            )
        return scores

    return make
