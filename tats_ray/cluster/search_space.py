"""A sweep as a declaration: which knobs, from which domains, from which base run, judged by which metric."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, cast

import numpy as np
from ray import tune
from ray.tune.search.sample import Categorical, Domain, LogUniform

from tats_ray.config.error import ConfigError
from tats_ray.sweeping.journal import SchedulerName, SearchName

DRAWS_A_NEW_ONE = 100
"""How often a draw that was made already is repeated before the domains count as exhausted."""


@dataclass(frozen=True)
class SearchSpace:
    """A sweep as a declaration; every name is a dotted path of a run, or a metric's documented name.

    A domain is one of Ray Tune's: ``tune.choice``, ``tune.uniform``, ``tune.loguniform``, ``tune.randint`` and others.
    ``tune.choice`` and ``tune.grid_search`` mean the same; what is made of them is the search's business.

    Example:
        >>> space = SearchSpace(
        ...     name="rates",
        ...     recipe="tiny",
        ...     metric="validation/random_mask_error",
        ...     mode="min",
        ...     domains={"optim.base_learning_rate": tune.loguniform(1e-2, 1e-1)},
        ...     search="random",
        ...     trials=6,
        ... )
        >>> space.domains["optim.base_learning_rate"].upper
        0.1
    """

    name: str
    recipe: str
    metric: str
    mode: Literal["min", "max"]
    domains: Mapping[str, Any]
    """Dotted path to a domain."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Of every trial."""
    warm_up: Mapping[str, Any] | None = None
    """Of the run whose last checkpoint every trial starts from; None starts trials from initial weights."""
    shown: tuple[str, ...] = ()
    """Further metrics in the table."""
    search: SearchName = "grid"
    """Where the command line says nothing else; likewise the next two."""
    scheduler: SchedulerName = "none"
    trials: int | None = None


WARM_UP = {
    "training.steps": 800,
    "masking.visible.switch.policy_by": 1.0,  # the critic learns, the policy stays off
    "masking.visible.switch.explained_variance": 0.99,
}
"""Of the tiny recipe: masks stay random, the autoencoder learns what to copy, and the critic what is hard."""

FROM_WARM = {
    "training.validate_every": 20,
    "training.checkpoint_every": 40,  # where schedulers decide
    "training.picture_every": None,
    "optim.warmup_share": 0.1,
    "masking.visible.switch.critic_by": 0.0,  # step 20
    "masking.visible.switch.policy_by": 0.0,  # step 40
}
"""Of short trials that start there: the sampler is on from step 40."""


def domain_of(declared: Any, path: str) -> Domain:
    """Return a declared domain as one of Tune's that can be drawn from.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(declared, dict) and set(declared) == {"grid_search"}:
        return cast(Domain, tune.choice(declared["grid_search"]))
    if not isinstance(declared, Domain) or declared.is_function():
        raise ConfigError(
            f"the domain of {path} must be one of Ray Tune's, such as tune.choice([...]) or "
            f"tune.loguniform(1e-3, 1e-1), got {declared!r}"
        )
    return declared


def grid(space: SearchSpace, *, limit: int | None) -> list[dict[str, Any]]:
    """Return every combination, the last knob turning fastest; the first ``limit`` of them if it is given.

    Raises:
        ConfigError: A domain has no list of values.
    """
    columns = []
    for path, declared in space.domains.items():
        domain = domain_of(declared, path)
        if not isinstance(domain, Categorical):
            raise ConfigError(
                f"--search grid needs a list of values for {path}, got {declared}: give it tune.choice([...]), or use "
                f"--search random or tpe"
            )
        columns.append(domain.categories)
    return [dict(zip(space.domains, values, strict=True)) for values in product(*columns)][:limit]


def draws(space: SearchSpace, *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield independent draws from the domains, none of them twice; ends when no new one is found."""
    domains = {path: domain_of(declared, path) for path, declared in space.domains.items()}
    random = np.random.default_rng(seed)
    seen: list[dict[str, Any]] = []
    repeated = 0
    while repeated < DRAWS_A_NEW_ONE:
        drawn = {path: plain(domain.sample(random_state=cast(Any, random))) for path, domain in domains.items()}
        if drawn in seen:
            repeated += 1
        else:
            seen.append(drawn)
            repeated = 0
            yield drawn


def is_logarithmic(declared: Any, path: str) -> bool:
    """Say whether a domain is drawn from in logarithms."""
    sampler = domain_of(declared, path).get_sampler()
    return isinstance(sampler, LogUniform) or isinstance(getattr(sampler, "sampler", None), LogUniform)


def plain(value: Any) -> Any:
    """Return a number of numpy's as one of Python's, which survives a file."""
    return value.item() if isinstance(value, np.generic) else value
