"""Sweep both optimisers: python tune_spaces/sweep_optim.py [path=value ...].

Random draws, from one warm checkpoint that other sweeps share. For rates from initial weights leave warm_up and
FROM_WARM out of a copy, and give it training.steps.
"""

import sys

from ray import tune

from tats_ray.cluster.search_space import FROM_WARM, WARM_UP, SearchSpace
from tats_ray.cluster.sweep_command import main

SPACE = SearchSpace(
    name="sweep_optim",
    recipe="tiny",
    metric="validation/random_mask_error",
    mode="min",
    domains={
        "optim.base_learning_rate": tune.loguniform(5e-3, 1e-1),
        "masking.visible.ppo.learning_rate": tune.loguniform(3e-4, 1e-2),
        "optim.weight_decay": tune.choice([0.0, 0.05, 0.2]),
        "optim.warmup_share": tune.choice([0.0, 0.1, 0.2]),
    },
    search="random",
    trials=8,
    warm_up=WARM_UP,
    fixed={**FROM_WARM, "training.steps": 200},
    shown=("reconstruction/loss", "sampler/mover_lift", "sampler/twin_lift"),
)

if __name__ == "__main__":
    sys.exit(main(SPACE, description=__doc__ or ""))
