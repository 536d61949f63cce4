"""Bounds on the length of an upload."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedvlr_jax.uplink.transform import UplinkTransform, unchanged
from fedvlr_jax.uplink.uploads import Needs


def clip_factors(norms: jax.Array, bound: float | jax.Array) -> jax.Array:
    """float32 [K]: the factor of each upload that makes its L2 norm at most `bound`.

    The norm is joint over all leaves of a client's upload. An upload inside the ball keeps its
    bits (factor 1).
    """
    return jnp.minimum(1.0, bound / jnp.maximum(norms, 1e-30))


def fixed_clip(bound: float) -> UplinkTransform:
    """Scales each upload down to an L2 norm of at most `bound`, jointly over all its leaves."""

    def weigh(norms, cohort, state):
        factor = clip_factors(norms, bound)
        return factor, factor < 1

    return UplinkTransform(
        needs=Needs.NORMS,
        init=lambda: (),
        weigh=weigh,
        update=unchanged,
        bound=lambda state: bound,
    )


def adaptive_clip(bound: float, quantile: float, rate: float = 0.2) -> UplinkTransform:
    """Clips at a bound that follows a quantile of the norms.

    After each round the server multiplies the bound by exp(-rate * (b - quantile)), b being the
    share of the clients who responded whose upload was within the bound (Andrew et al. 2021,
    "Differentially Private Learning with Adaptive Clipping", section 3). Without a response the
    bound stays. The share is exact here, so no privacy statement covers it; see
    `private_adaptive_clip`.

    Args:
      bound: in the first round.
      quantile: the share of uploads that the bound should leave as they are, in (0, 1).
      rate: how fast the bound moves.
    """

    def weigh(norms, cohort, state):
        factor = clip_factors(norms, state)
        return factor, factor < 1

    def update(state, clipped, responded):
        num_responded = jnp.sum(responded)
        count = jnp.maximum(num_responded, 1).astype(jnp.float32)
        within = jnp.sum(responded & ~clipped).astype(jnp.float32) / count
        moved = state * jnp.exp(-rate * (within - quantile))
        return jnp.where(num_responded > 0, moved, state)

    return UplinkTransform(
        needs=Needs.NORMS,
        init=lambda: jnp.asarray(bound, jnp.float32),
        weigh=weigh,
        update=update,
        bound=lambda state: state,
    )


def private_adaptive_clip(
    bound: float, quantile: float, clients: float, deviation: float, rate: float = 0.2
) -> UplinkTransform:
    """`adaptive_clip` whose share is noisy and has a fixed denominator.

    b = 1/2 + (sum over the responding clients of (1 if within the bound, else 0) - 1/2, plus
    N(0, (deviation * clients)^2)) / clients. Adding or removing a client moves the sum by exactly
    1/2, as in the accounting of Andrew et al.; a count of the clients within the bound would move
    by 1. Without a response b is 1/2 and noise.

    Args:
      clients: that a round expects to respond.
      deviation: of the noise on b.
    """
    plain = adaptive_clip(bound, quantile, rate)

    def noisy_update(key, state, clipped, responded):
        votes = jnp.where(responded, jnp.where(clipped, -0.5, 0.5), 0.0)
        within = 0.5 + jnp.sum(votes) / clients
        within += deviation * jax.random.normal(key)
        return state * jnp.exp(-rate * (within - quantile))

    return plain._replace(noisy_update=noisy_update)
