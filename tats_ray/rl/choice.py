"""The objectives by the names that a setting gives them."""

from typing import Literal, assert_never

from tats_ray.rl.drawn_order import DrawnOrder
from tats_ray.rl.objective import Objective
from tats_ray.rl.ppo import PPOConfig
from tats_ray.rl.regress import Regress
from tats_ray.rl.surrogate import Surrogate
from tats_ray.rl.withheld import Withheld

ObjectiveName = Literal["withheld", "regress", "surrogate", "order-low-error", "order-high-error"]

TEMPERED: tuple[ObjectiveName, ...] = ("withheld", "regress")
"""Come to rest at ``p ~ exp(q / tau)``, so that the temperature sets the distance from uniform."""
WITH_CLIP_VALUE: tuple[ObjectiveName, ...] = ("order-low-error", "order-high-error")
"""Need a critic of whole clips."""


def objective_of(name: ObjectiveName, config: PPOConfig) -> Objective:
    """Return the objective that goes by a name."""
    match name:
        case "withheld":
            return Withheld(config)
        case "regress":
            return Regress(config)
        case "surrogate":
            return Surrogate(config)
        case "order-low-error":
            return DrawnOrder(config, reward="low error")
        case "order-high-error":
            return DrawnOrder(config, reward="high error")
        case never:
            assert_never(never)
