"""Gaussian noise on the combined upload."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.types import PyTree


class Noise(NamedTuple):
    """Noise on the combined upload.

    Attributes:
      add: (key, upload, weight [K], bound []) -> the noisy upload. `weight` is what each client
        counts in the sum, 0 where it did not respond; `bound` the L2 bound of each upload.
      always: whether the server takes a step on the noise alone in a round without a response.
        Otherwise the missing step would reveal that no client responded.
      init: upload of zeros -> the state before the first round, a pytree of arrays; () for
        independent rounds.
      correlated: (key, upload, bound [], state) -> (the noisy upload, the state of the next
        round); in place of `add` where the noise of a round depends on earlier rounds. `add` is
        then the noise of the first round.
    """

    add: Callable[[jax.Array, PyTree, jax.Array, float | jax.Array], PyTree]
    always: bool = False
    init: Callable[[PyTree], PyTree] = lambda upload: ()
    correlated: (
        Callable[[jax.Array, PyTree, float | jax.Array, PyTree], tuple[PyTree, PyTree]] | None
    ) = None

    def next(
        self,
        key: jax.Array,
        upload: PyTree,
        weight: jax.Array,
        bound: float | jax.Array,
        state: PyTree,
    ) -> tuple[PyTree, PyTree]:
        """(the noisy upload, the state of the next round), by `correlated` where there is one."""
        if self.correlated is None:
            return self.add(key, upload, weight, bound), state
        return self.correlated(key, upload, bound, state)


def no_noise() -> Noise:
    """Adds nothing."""
    return Noise(lambda key, upload, weight, bound: upload)


def client_noise(multiplier: float) -> Noise:
    """As if every client had added Gaussian noise of `multiplier` times the bound to its upload.

    A sum of independent Gaussians is one Gaussian: sum_u alpha_u N(0, s^2) has the law of
    N(0, s^2 sum_u alpha_u^2). It is drawn once, not once for each client.
    """

    def add(key, upload, weight, bound):
        deviation = multiplier * bound
        return add_gaussian(key, upload, deviation * jnp.sqrt(jnp.sum(jnp.square(weight))))

    return Noise(add)


def central_noise(multiplier: float, denominator: float, *, always: bool = False) -> Noise:
    """The server adds Gaussian noise of `multiplier * bound / denominator` to the sum.

    For a sum in which each client counts 1 / `denominator`, bound / denominator is the most that
    one client can move it.
    """

    def add(key, upload, weight, bound):
        return add_gaussian(key, upload, jnp.asarray(multiplier * bound / denominator))

    return Noise(add, always)


def gaussian_like(key: jax.Array, tree: PyTree) -> PyTree:
    """Independent standard Gaussian numbers, in the shapes and dtypes of `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, noise)


def add_gaussian(key: jax.Array, tree: PyTree, deviation: jax.Array) -> PyTree:
    """`tree` plus independent Gaussian noise of this standard deviation on every number."""
    leaves, structure = jax.tree.flatten(tree)
    noise = jax.tree.leaves(gaussian_like(key, tree))
    # A barrier, because fusion with other operations gives other last bits on other device layouts.
    noise, leaves, deviation = jax.lax.optimization_barrier((noise, leaves, deviation))
    noisy = [leaf + deviation * each for leaf, each in zip(leaves, noise, strict=True)]
    return jax.tree.unflatten(structure, noisy)
