"""The settings of JAX for all computations of this library, whatever the process sets.

JAX reads settings from environment variables and from `jax.config`. Some change results (random
bits, precision of sums); others make compiled rounds fail or slow. Every compiled function of this
library therefore runs under `own_settings`. The settings of the process, and other computations in
it, do not change.

`key_of` and `generator_of` make random keys and generators of a seed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.extend.core import get_opaque_trace_state

Function = TypeVar("Function", bound=Callable[..., Any])

PRNG = "threefry2x32"
# By name in `jax.config`. Each has a context manager in `jax`, whose name lacks the "jax_".
SETTINGS: dict[str, Any] = {
    "jax_threefry_partitionable": True,
    "jax_default_prng_impl": PRNG,
    "jax_enable_x64": False,
    "jax_default_matmul_precision": "highest",
    # The round itself detects and reports numbers that are not finite.
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_disable_jit": False,
    "jax_transfer_guard": "allow",
}


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Sets SETTINGS in JAX inside the block, for this thread."""
    with contextlib.ExitStack() as stack:
        for name, value in SETTINGS.items():
            stack.enter_context(getattr(jax, name.removeprefix("jax_"))(value))
        yield


def overruled() -> list[str]:
    """The names in SETTINGS that the process has set to other values."""
    unset = {"jax_default_matmul_precision": None, "jax_transfer_guard": None}
    return [
        name
        for name, value in SETTINGS.items()
        if getattr(jax.config, name) not in (value, unset.get(name, value))
    ]


def under_own_settings(function: Function) -> Function:
    """Wraps `function` so that it runs under `own_settings`."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        with own_settings():
            return function(*arguments, **named)

    return wrapped  # type: ignore[return-value]


# A pass of XLA that replaces operations by cheaper ones with other bits, such as a division by a
# product with the reciprocal. In a program for several devices it meets the operations in another
# order and replaces other ones.
REWRITING = "algsimp"


def compiled(
    function: Callable[..., Any], *, as_written: bool = False, **options: Any
) -> Callable[..., Any]:
    """`jax.jit(function, **options)`, traced and run under `own_settings`.

    Args:
      as_written: on a CPU the compiler keeps the arithmetic of `function`, so that programs for 1,
        2, 4 and 8 devices can give the same bits. The program is slower.
    """
    plain = under_own_settings(jax.jit(function, **options))
    if not as_written or jax.default_backend() != "cpu":
        return plain
    options["compiler_options"] = {"xla_disable_hlo_passes": REWRITING}
    written = under_own_settings(jax.jit(function, **options))

    @functools.wraps(written)
    def called(*arguments: Any, **named: Any) -> Any:
        # JAX refuses options of the compiler inside the trace of another function.
        outermost = get_opaque_trace_state() == _NO_TRACE
        return (written if outermost else plain)(*arguments, **named)

    return called


_NO_TRACE = get_opaque_trace_state()


def shapes_of(function: Callable[..., Any], *arguments: Any) -> Any:
    """`jax.eval_shape(function, *arguments)` under `own_settings`."""
    with own_settings():
        return jax.eval_shape(function, *arguments)


@under_own_settings
def key_of(seed: jax.Array | np.ndarray | int) -> jax.Array:
    """The typed random key of a seed, an unsigned integer of 32 bits.

    It has the bits of `jax.random.key(seed)` under JAX's default settings.
    """
    words = jax.numpy.stack([jax.numpy.uint32(0), jax.numpy.asarray(seed, jax.numpy.uint32)])
    return jax.random.wrap_key_data(words, impl=PRNG)


def generator_of(seed: int, *purpose: int) -> np.random.Generator:
    """The NumPy generator of one purpose of a run; no other part of the run draws its numbers.

    The purpose is a spawn key. A second word of entropy would not do: (seed, round) is that of the
    cohort of a round.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))
