"""The precision of the operands of matrix products; all sums are in full precision.

The defaults of compilers differ between devices (recent GPUs round operands to 10 bits), so this
module sets the precision explicitly: full, except for the products of the dense plan over the whole
catalogue, which --matmul_precision can lower.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp

from fedvlr_jax.errors import InputError

# A sum of products: (einsum subscripts, operand, operand) -> result.
Product = Callable[[str, jax.Array, jax.Array], jax.Array]


def full_precision() -> AbstractContextManager[None]:
    """A context. Products that are traced inside do not round their operands."""
    return jax.default_matmul_precision("highest")


def make_product(precision: str) -> Product:
    """An einsum of two operands, rounded to float32, tf32 (10 bits) or bf16 (7 bits)."""

    def product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
        exactness = jax.lax.Precision.HIGH if precision == "tf32" else jax.lax.Precision.HIGHEST
        kind = a.dtype
        if precision == "bf16":
            a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
            exactness = jax.lax.Precision.DEFAULT
        return jnp.einsum(subscripts, a, b, precision=exactness, preferred_element_type=kind)

    return product


def check_precision(precision: str, plan: str) -> None:
    """Raises InputError if the choice would change nothing."""
    if precision != "float32" and plan != "dense":
        raise InputError(
            f"--matmul_precision={precision}: for plan dense only, but the plan is {plan}; "
            "use float32"
        )
    if precision == "tf32" and jax.default_backend() == "cpu":
        raise InputError("--matmul_precision=tf32: a CPU has no such products; use float32 or bf16")
