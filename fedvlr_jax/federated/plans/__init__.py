"""The plans: ways to execute local epochs that give the same numbers, one per file."""

from fedvlr_jax.federated.plans.choice import PLANS, choose_plan
from fedvlr_jax.federated.plans.chunk_size import chunk_bytes, chunk_size, client_bytes
from fedvlr_jax.federated.plans.plan import Plan

__all__ = ["PLANS", "Plan", "choose_plan", "chunk_bytes", "chunk_size", "client_bytes"]
