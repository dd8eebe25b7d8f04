"""Sweep what the sampler is rewarded for: python tune_spaces/sweep_reward_weighting.py [path=value ...].

Random draws, from one warm checkpoint that other sweeps share; the policy is on from step 40 of 200, and the sampler
makes 480 steps. Lifts on movers and on their still twins say whether a reward finds motion or contrast.
"""

import sys

from ray import tune

from tats_ray.cluster.search_space import FROM_WARM, WARM_UP, SearchSpace
from tats_ray.cluster.sweep_command import main

SPACE = SearchSpace(
    name="sweep_reward_weighting",
    recipe="tiny",
    metric="validation/random_mask_error",
    mode="min",
    domains={
        "masking.visible.reward.error": tune.choice(["normalised", "raw", "noise-weighted"]),
        "masking.visible.ppo.temperature": tune.choice([0.3, 0.5, 1.0]),
        "masking.visible.reward.critic": tune.choice(["trained", "constant"]),
        # Drawn uniformly, a hidden token's log weight is near -log(mask_ratio) = .22; hardly any is above .4.
        "masking.visible.reward.log_weight_cap": tune.choice([0.15, 0.2, 0.25]),
    },
    search="random",
    trials=8,
    warm_up=WARM_UP,
    fixed={**FROM_WARM, "training.steps": 200},
    shown=("sampler/motion_lift", "sampler/mover_lift", "sampler/twin_lift", "sampler/nats_from_uniform"),
)

if __name__ == "__main__":
    sys.exit(main(SPACE, description=__doc__ or ""))
