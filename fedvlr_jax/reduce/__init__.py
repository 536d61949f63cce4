"""Aggregation rules: each combines the uploads of a cohort into one upload."""

from fedvlr_jax.reduce.registry import REDUCTIONS
from fedvlr_jax.reduce.rule import Reduce

__all__ = ["REDUCTIONS", "Reduce"]
