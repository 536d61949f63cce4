"""Fusion: the server computes views of all items, and each client weights them privately."""

from fedvlr_jax.fusion.fusion import FUSIONS, Fusion, describe_views, make_fusion, view_names
from fedvlr_jax.fusion.operators import OPERATORS

__all__ = ["FUSIONS", "OPERATORS", "Fusion", "describe_views", "make_fusion", "view_names"]
