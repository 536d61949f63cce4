"""Transforms of the uploads before the rule combines them: a factor for each client.

An `UplinkTransform` is a NamedTuple of pure functions, as an optax transformation is. Its
state is part of `ServerState`: the server broadcasts it, checkpoints hold it, and seeds are
mapped over it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.types import Array, Cohort, PyTree
from fedvlr_jax.uplink.uploads import Needs


class UplinkTransform(NamedTuple):
    """Weighs the uploads of a cohort.

    Attributes:
      needs: NORMS where `weigh` reads the norms, else SUM; the norms are None then.
      init: () -> the state before the first round, a pytree of arrays.
      weigh: (norms [K] or None, cohort, state) -> (factor [K], clipped bool [K]). The factor
        multiplies the client's upload; `clipped` says whether it shortened the upload.
      update: (state, clipped bool [K], responded bool [K]) -> the state of the next round.
      bound: state -> [], an L2 norm that no upload exceeds after `weigh`; infinity for none.
      noisy_update: (key, state, clipped, responded) -> the state of the next round; in place of
        `update` where it draws random numbers.
    """

    needs: Needs
    init: Callable[[], PyTree]
    weigh: Callable[[jax.Array | None, Cohort, PyTree], tuple[jax.Array, jax.Array]]
    update: Callable[[PyTree, Array, Array], PyTree]
    bound: Callable[[PyTree], float | jax.Array]
    noisy_update: Callable[[jax.Array, PyTree, Array, Array], PyTree] | None = None

    def next_state(self, key: jax.Array, state: PyTree, clipped: Array, responded: Array) -> PyTree:
        """The state of the next round, by `noisy_update` where there is one, else by `update`."""
        if self.noisy_update is None:
            return self.update(state, clipped, responded)
        return self.noisy_update(key, state, clipped, responded)


def unchanged(state: PyTree, clipped: Array, responded: Array) -> PyTree:
    """The `update` of a transform whose state never changes."""
    return state


def identity() -> UplinkTransform:
    """Leaves every upload as it is."""

    def weigh(norms, cohort, state):
        clients = cohort.responded.shape[0]
        return jnp.ones(clients), jnp.zeros(clients, bool)

    return UplinkTransform(
        needs=Needs.SUM,
        init=lambda: (),
        weigh=weigh,
        update=unchanged,
        bound=lambda state: math.inf,
    )


def chain(*transforms: UplinkTransform) -> UplinkTransform:
    """The transforms one after the other; each sees the norms that the ones before it left.

    Only the last one's bound holds, so that a bound belongs at the end. `clipped` is that of
    any. The state is the tuple of theirs.
    """

    def weigh(norms, cohort, state):
        clients = cohort.responded.shape[0]
        factor, clipped = jnp.ones(clients), jnp.zeros(clients, bool)
        for transform, own in zip(transforms, state, strict=True):
            left = None if norms is None else norms * jnp.abs(factor)
            by, shortened = transform.weigh(left, cohort, own)
            factor, clipped = factor * by, clipped | shortened
        return factor, clipped

    def update(state, clipped, responded):
        pairs = zip(transforms, state, strict=True)
        return tuple(transform.update(own, clipped, responded) for transform, own in pairs)

    def noisy_update(key, state, clipped, responded):
        keys = jax.random.split(key, len(transforms))
        each = zip(transforms, keys, state, strict=True)
        return tuple(t.next_state(own_key, own, clipped, responded) for t, own_key, own in each)

    draws = any(transform.noisy_update is not None for transform in transforms)
    return UplinkTransform(
        needs=max(transform.needs for transform in transforms),
        init=lambda: tuple(transform.init() for transform in transforms),
        weigh=weigh,
        update=update,
        bound=lambda state: transforms[-1].bound(state[-1]),
        noisy_update=noisy_update if draws else None,
    )
