"""Rules that compute weights from the inner products of the uploads only.

The combined upload is a weighted sum. A plan can compute it without building any upload. Only
`geometric_median` uses the clients' aggregation weights.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedvlr_jax.reduce import order
from fedvlr_jax.reduce.mean import normalised_weights
from fedvlr_jax.reduce.rule import Reduce
from fedvlr_jax.reduce.shares import share_of
from fedvlr_jax.uplink.clip import clip_factors
from fedvlr_jax.uplink.uploads import Needs

# Longest upload that enters the geometric median, as a multiple of the median norm.
FARTHEST = 100.0


def squared_distances(products: jax.Array) -> jax.Array:
    """[K, K]: |u - v|^2 of all pairs, from their inner products [K, K]."""
    square = jnp.diagonal(products)
    return jnp.maximum(square[:, None] + square[None, :] - 2 * products, 0.0)


def krum_scores(products: jax.Array, responded: jax.Array, byzantine: jax.Array) -> jax.Array:
    """[K]: the sum of squared distances to the n - f - 2 nearest others (Blanchard et al. 2017).

    Args:
      products: [K, K], the inner products of the uploads.
      responded: bool [K]; n is the number of responses. The other clients have score infinity.
      byzantine: f, int32 []. At least one neighbour is summed.
    """
    clients = len(responded)
    pair = responded[:, None] & responded[None, :] & ~jnp.eye(clients, dtype=bool)
    distance = jnp.sort(jnp.where(pair, squared_distances(products), jnp.inf), axis=1)
    neighbours = jnp.clip(jnp.sum(responded) - byzantine - 2, 1, clients)
    counted = (jnp.arange(clients) < neighbours)[None, :] & jnp.isfinite(distance)
    return jnp.where(responded, jnp.sum(jnp.where(counted, distance, 0.0), axis=1), jnp.inf)


def krum(byzantine_share: float) -> Reduce:
    """Krum (Blanchard et al. 2017): the upload with the lowest score."""
    return multi_krum(byzantine_share, None)


def multi_krum(byzantine_share: float, selected_share: float | None = 1.0) -> Reduce:
    """Multi-Krum (Blanchard et al. 2017): the mean of the uploads with the lowest scores.

    The scores of orthogonal uploads have the order of their lengths. Uploads of different users
    are almost orthogonal, so the rule leaves out the longest ones.

    Args:
      byzantine_share: f / n, the fraction of clients that may be hostile, in [0, 0.5).
      selected_share: the number of averaged uploads as a fraction of n - f, in (0, 1]. None
        selects one upload, which is Krum.
    """

    def of_cohort(uploads, alpha, responded):
        num_responded = jnp.sum(responded)
        byzantine = share_of(byzantine_share, num_responded)
        scores = krum_scores(uploads.products(), responded, byzantine)
        count = jnp.ones((), jnp.int32)
        if selected_share is not None:
            count = jnp.maximum(share_of(selected_share, num_responded - byzantine), 1)
        place = jnp.argsort(jnp.argsort(scores))
        chosen = responded & (place < count)
        return uploads.total(normalised_weights(jnp.ones_like(alpha), chosen))

    return Reduce(Needs.WHOLE, normalised_weights, of_cohort)


def geometric_median(iterations: int = 10, smoothing: float = 1e-6) -> Reduce:
    """The geometric median: it minimises the weighted sum of distances to the uploads.

    RFA (Pillutla et al. 2022): the smoothed Weiszfeld algorithm, started at the weighted mean.

    The server first clips each upload to FARTHEST times the median norm. Otherwise one hostile
    client could set the start and the smoothing by the length of its upload, and a limited number
    of steps would end far from the honest uploads.

    Args:
      iterations: the number of Weiszfeld steps.
      smoothing: the lower bound of a distance, as a fraction of the largest norm of an upload.
    """

    def of_cohort(uploads, alpha, responded):
        products = uploads.products()
        products = jnp.where(responded[:, None] & responded[None, :], products, 0.0)
        norms = jnp.sqrt(jnp.maximum(jnp.diagonal(products), 0.0))
        bound = FARTHEST * order.median(norms[:, None], responded[:, None])
        factor = clip_factors(norms, bound)
        products = factor[:, None] * factor[None, :] * products
        square = jnp.diagonal(products)
        least = smoothing * jnp.sqrt(jnp.max(square, initial=0.0)) + 1e-30

        def step(_, weight):
            inner = products @ weight
            distance = jnp.sqrt(jnp.maximum(square - 2 * inner + weight @ inner, 0.0))
            weight = alpha / jnp.maximum(distance, least)
            return weight / jnp.maximum(jnp.sum(weight), 1e-30)

        return uploads.total(factor * jax.lax.fori_loop(0, iterations, step, alpha))

    return Reduce(Needs.WHOLE, normalised_weights, of_cohort)
