"""In what precision products of matrices take their operands; all sums are in full.

What a compiler does by default differs between devices (recent GPUs round operands to 10
bits), so nothing here is left to it: everything is in full precision, except the products of
the dense plan over the whole catalogue where --matmul_precision says so.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedvlr_jax.errors import InputError

# The sums of products that carry a round: (einsum subscripts, operand, operand) -> result.
Product = Callable[[str, jax.Array, jax.Array], jax.Array]


def full_precision():
    """A context in which what is traced takes its operands as they are."""
    return jax.default_matmul_precision("highest")


def make_product(precision: str) -> Product:
    """An einsum of two operands, taken as float32, tf32 (10 bits) or bf16 (7 bits)."""

    def product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
        exactness = jax.lax.Precision.HIGH if precision == "tf32" else jax.lax.Precision.HIGHEST
        kind = a.dtype
        if precision == "bf16":
            a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
            exactness = jax.lax.Precision.DEFAULT
        return jnp.einsum(subscripts, a, b, precision=exactness, preferred_element_type=kind)

    return product


def check_precision(precision: str, plan: str) -> None:
    """Raises InputError where the choice would change nothing."""
    if precision != "float32" and plan != "dense":
        raise InputError(
            f"--matmul_precision={precision}: for plan dense only, this run's is {plan}; "
            "use float32"
        )
    if precision == "tf32" and jax.default_backend() == "cpu":
        raise InputError("--matmul_precision=tf32: a CPU has no such products; use float32 or bf16")
