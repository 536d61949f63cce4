"""Name -> attack, for the fields of `AttackOptions`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from fedvlr_jax import registry
from fedvlr_jax.attacks.attack import Attack
from fedvlr_jax.attacks.population import Hostile
from fedvlr_jax.config import AttackConfig


class AttackOptions(NamedTuple):
    """The options of an attack, from the flags and the population.

    Attributes:
      first: the first hostile client. clients: the population, hostile clients included.
      strength: --attack_strength. seed: --attack_seed.
      targets: int [T], the items to promote.
      public: int [2, P], user and item of the public interactions.
    """

    first: int
    clients: int
    strength: float
    seed: int
    targets: np.ndarray
    public: np.ndarray


ATTACKS: Mapping[str, Callable[[AttackOptions], Attack]] = registry.Factories(registry.ATTACKS)


def make_attack(config: AttackConfig, hostile: Hostile) -> Attack:
    """The attack that the flags describe."""
    options = AttackOptions(
        first=hostile.first,
        clients=hostile.first + hostile.size,
        strength=config.attack_strength,
        seed=config.attack_seed,
        targets=hostile.targets,
        public=hostile.public,
    )
    return ATTACKS[config.attack](options)
