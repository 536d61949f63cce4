"""Hostile clients: their place in the population, their knowledge and their uploads."""

from fedvlr_jax.attacks.attack import Attack, Seen
from fedvlr_jax.attacks.population import Hostile, plan_hostile, with_hostile
from fedvlr_jax.attacks.registry import ATTACKS, make_attack

__all__ = [
    "ATTACKS",
    "Attack",
    "Hostile",
    "Seen",
    "make_attack",
    "plan_hostile",
    "with_hostile",
]
