"""Counts the FLOPs of the matrix products of a function, from its trace.

XLA's own cost analysis counts the body of a loop of unknown length only once. This count
multiplies the body of a loop by its length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(each, "jaxpr", each)
            if hasattr(inner, "eqns"):
                yield inner


def _of_jaxpr(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2.0 * math.prod(result) * math.prod(left[axis] for axis in contracted)
            continue
        inside = [_of_jaxpr(inner) for inner in _inner(equation.params)]
        if equation.primitive.name == "cond":
            total += max(inside)
        else:
            total += sum(inside) * equation.params.get("length", 1)
    return total


def product_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs of the matrix products of one call. A loop of unknown length counts once."""
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)
