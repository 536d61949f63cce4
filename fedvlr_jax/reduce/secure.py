"""The mean of the uploads from a sum in a ring, as a secure sum gives it to the server."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from fedvlr_jax.reduce.rule import Reduce
from fedvlr_jax.uplink.ring import Ring, from_ring, ring_sum
from fedvlr_jax.uplink.uploads import Needs, Upload


def secure_mean(ring: Ring) -> Reduce:
    """The ring sum of the rounded uploads over the number of clients that responded.

    All clients count the same, so that nothing but the sum and that number is needed. The masks
    of the protocol cancel exactly (`privacy.secure_sum`), so they are not drawn here.
    """

    def decode(total: Upload, responded: jax.Array) -> Upload:
        count = jnp.maximum(jnp.sum(responded), 1)
        return jax.tree.map(lambda x: from_ring(ring, x) / count.astype(float), total)

    return Reduce(
        needs=Needs.NORMS,
        weights=lambda weight, responded: responded.astype(weight.dtype),
        encode=functools.partial(ring_sum, ring),
        decode=decode,
    )
