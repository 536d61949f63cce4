"""The attacks by name: one line each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedvlr_jax.attacks import statistics, targeted
from fedvlr_jax.attacks.attack import Attack
from fedvlr_jax.attacks.population import Hostile
from fedvlr_jax.config import AttackConfig


class AttackOptions(NamedTuple):
    """What the flags and the population say to an attack.

    Attributes:
      first: the first hostile client. clients: the population, hostile clients included.
      strength: --attack_strength.
      targets: int [T], the items to promote.
      public: int [2, P], user and item of the public interactions.
    """

    first: int
    clients: int
    strength: float
    targets: np.ndarray
    public: np.ndarray


ATTACKS: dict[str, Callable[[AttackOptions], Attack]] = {
    "honest": lambda o: statistics.scaled(1.0, o.first),
    "sign_flip": lambda o: statistics.scaled(-o.strength, o.first),
    "scaling": lambda o: statistics.scaled(10 * o.strength, o.first),
    "label_flip": lambda o: statistics.scaled(1.0, o.first),
    "not_a_number": lambda o: statistics.scaled(math.nan, o.first),
    "alie": lambda o: statistics.alie(o.first, o.clients),
    "ipm": lambda o: statistics.ipm(o.strength, o.first),
    "ua_fedrec": lambda o: statistics.ua_fedrec(o.strength, o.first),
    "spattack": lambda o: statistics.spattack(o.strength, 200, o.first),
    "cluster": lambda o: statistics.cluster(o.strength, 20, o.first),
    "a_ra": lambda o: targeted.imagined(o.targets, o.strength, o.first, hard=False),
    "a_hum": lambda o: targeted.imagined(o.targets, o.strength, o.first, hard=True),
    "fedrec": lambda o: targeted.fedrec(o.public, o.targets, o.strength, o.first),
    "pieck_ipe": lambda o: targeted.pieck(
        targeted.popularity_enhancement, o.targets, o.strength, o.first
    ),
    "pieck_uea": lambda o: targeted.pieck(
        targeted.user_approximation, o.targets, o.strength, o.first
    ),
}


def make_attack(config: AttackConfig, hostile: Hostile) -> Attack:
    """The attack that the flags describe."""
    options = AttackOptions(
        first=hostile.first,
        clients=hostile.first + hostile.size,
        strength=config.attack_strength,
        targets=hostile.targets,
        public=hostile.public,
    )
    return ATTACKS[config.attack](options)
