"""Look-up by name."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

from tats_ray.config.error import ConfigError

T = TypeVar("T")


def named(name: str, known: Mapping[str, T], *, what: str) -> T:
    """Return what goes by a name.

    Args:
        name: The name.
        known: All there is, by name.
        what: What these are, in the singular.

    Raises:
        ConfigError: Nothing goes by it; the message has the nearest name, and all.
    """
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"there is no {what} {name!r}{hint} There are: {', '.join(known)}")
    return known[name]
