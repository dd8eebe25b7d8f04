"""Sweep the mask ratio and the sampler: python tune_spaces/sweep_mask_ratio.py [path=value ...].

Six trials of the tiny recipe, about five minutes on 2 cores. All go on from one warm checkpoint, trained once with
random masks and found again by later sweeps, so that each learned sampler is on for at least 100 steps.
"""

import sys

from ray import tune

from tats_ray.cluster.sweep_command import main
from tats_ray.cluster.tune import SearchSpace

SPACE = SearchSpace(
    name="sweep_mask_ratio",
    recipe="tiny",
    metric="validation/random_mask_error",
    mode="min",
    domains={
        "masking.mask_ratio": tune.grid_search([0.75, 0.9]),
        "masking.visible.kind": tune.grid_search(["random", "adamae", "tats"]),
    },
    warm_up={
        "training.steps": 800,
        "masking.visible.switch.policy_by": 1.0,  # the critic learns, the policy stays off
        "masking.visible.switch.explained_variance": 0.99,
    },
    fixed={
        "training.steps": 200,
        "training.validate_every": 20,
        "training.picture_every": 200,
        "optim.warmup_share": 0.1,
        "masking.visible.switch.critic_by": 0.0,  # step 20
        "masking.visible.switch.policy_by": 0.0,  # step 40
    },
    shown=("sampler/policy_on_step", "sampler/motion_lift", "sampler/mover_lift", "sampler/twin_lift"),
)

if __name__ == "__main__":
    sys.exit(main(SPACE, description=__doc__ or ""))
