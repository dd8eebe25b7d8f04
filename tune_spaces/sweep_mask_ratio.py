"""Sweep the mask ratio and the visible rule: python tune_spaces/sweep_mask_ratio.py [path=value ...].

Without arguments the first ten of its combinations, two ratios of five rules, from one warm checkpoint that is trained
once with random masks and found again by later sweeps; TATS's policy is on from step 40 of 200. --trials 40 takes all.
"""

import sys

from ray import tune

from tats_ray.cluster.search_space import FROM_WARM, WARM_UP, SearchSpace
from tats_ray.cluster.sweep_command import main

SPACE = SearchSpace(
    name="sweep_mask_ratio",
    recipe="tiny",
    metric="validation/random_mask_error",
    mode="min",
    domains={
        "masking.mask_ratio": tune.choice([0.75, 0.9, 0.95, 0.85, 0.8, 0.7, 0.6, 0.5]),
        "masking.visible.kind": tune.choice(["random", "adamae", "tats", "tube", "frame-difference"]),
    },
    trials=10,
    warm_up=WARM_UP,
    fixed={**FROM_WARM, "training.steps": 200},
    shown=("sampler/policy_on_step", "sampler/motion_lift", "sampler/mover_lift", "sampler/twin_lift"),
)

if __name__ == "__main__":
    sys.exit(main(SPACE, description=__doc__ or ""))
