"""Sweep what PPO does with its rollouts: python tune_spaces/sweep_ppo_clip.py [path=value ...].

Random draws, from one warm checkpoint that other sweeps share; the policy is on from step 40 of 200, and the sampler
makes at least 320 steps. Trials in which the clip range bound hardly any ratio are listed as inactive, and not ranked.
"""

import sys

from ray import tune

from tats_ray.cluster.search_space import FROM_WARM, WARM_UP, SearchSpace
from tats_ray.cluster.sweep_command import main

SPACE = SearchSpace(
    name="sweep_ppo_clip",
    recipe="tiny",
    metric="validation/random_mask_error",
    mode="min",
    domains={
        "masking.visible.ppo.clip_eps": tune.loguniform(0.01, 0.2),
        "masking.visible.ppo.update_epochs": tune.choice([2, 3, 4]),
        "masking.visible.ppo.rollout_steps": tune.choice([2, 4, 8]),
        "masking.visible.ppo.temperature": tune.loguniform(0.2, 1.0),
        "masking.visible.ppo.value_coef": tune.choice([0.1, 0.5, 1.0]),
        "masking.visible.ppo.target_kl": tune.choice([0.01, 0.03, 0.1]),
    },
    search="random",
    trials=8,
    warm_up=WARM_UP,
    fixed={**FROM_WARM, "training.steps": 200, "masking.visible.ppo.learning_rate": 3e-3},
    shown=("ppo/clipfrac", "sampler/mover_lift", "sampler/twin_lift"),
)

if __name__ == "__main__":
    sys.exit(main(SPACE, description=__doc__ or ""))
