"""Rules that make one upload out of the uploads of a cohort."""

from fedvlr_jax.reduce.registry import REDUCTIONS
from fedvlr_jax.reduce.rule import Reduce

__all__ = ["REDUCTIONS", "Reduce"]
