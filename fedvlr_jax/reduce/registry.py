"""Name -> rule, for the fields of `RuleOptions`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fedvlr_jax import registry
from fedvlr_jax.reduce.rule import Reduce
from fedvlr_jax.uplink.ring import MOST_LEVELS, Ring


class RuleOptions(NamedTuple):
    """The options of a rule, from the configuration.

    Attributes:
      expected: the expected number of responses in a round.
      byzantine_share: the fraction of clients that may be hostile.
      ring: how a secure sum rounds uploads.
    """

    expected: float
    byzantine_share: float
    ring: Ring = Ring(bound=1.0, levels=MOST_LEVELS)


REDUCTIONS: Mapping[str, Callable[[RuleOptions], Reduce]] = registry.Factories(registry.RULES)
