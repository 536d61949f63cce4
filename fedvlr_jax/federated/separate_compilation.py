"""The parts of a round are compiled separately, so that their bits do not depend on each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax.federated.matmul_precision import full_precision
from fedvlr_jax.types import PyTree

# By backend: "branch" (the default, a conditional) or "barrier". A barrier is cheaper on backends
# whose conditional synchronises with the host, but XLA's CPU compiler fuses across it.
# benchmarks.accelerator measures both.
BOUNDARY: dict[str, str] = {}


def compiled_alone(always: jax.Array, function: Callable[..., PyTree], *operands: PyTree) -> PyTree:
    """function(*operands), compiled separately: its bits do not depend on the code around it.

    Matrix products are in full precision, on every device.

    Depending on fusion, a compiler rounds a product and a sum once or twice, so the same
    mathematics in another program may differ in its last bits. A branch that is always taken stops
    fusion: the compiler treats its inside in the same way in a scan over rounds and in a call per
    chunk. See BOUNDARY.

    Args:
      always: bool [], True, in a form that the compiler cannot know.
    """
    if BOUNDARY.get(jax.default_backend()) == "barrier":
        with full_precision():
            return jax.lax.optimization_barrier(function(*jax.lax.optimization_barrier(operands)))
    structure: list[Any] = []

    def flat_function(*operands: PyTree) -> list[jax.Array]:
        with full_precision():
            leaves, tree = jax.tree.flatten(function(*operands))
        structure[:] = [tree]
        return leaves

    shapes = jax.eval_shape(flat_function, *operands)
    nothing = lambda *_: [jnp.zeros(x.shape, x.dtype) for x in shapes]
    leaves = jax.lax.cond(always, flat_function, nothing, *operands)
    return jax.tree.unflatten(structure[0], leaves)
