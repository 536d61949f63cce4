"""Rules against hostile clients beside medians and Krum, and the check that stands before all."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.reduce.coordinates import middle
from fedvlr_jax.reduce.gram import krum_scores, share_of
from fedvlr_jax.reduce.mean import normalised_weights
from fedvlr_jax.reduce.rule import Reduce
from fedvlr_jax.uplink.clip import clip_factors
from fedvlr_jax.uplink.uploads import Needs, Upload, Uploads


def finite_only(rule: Reduce) -> Reduce:
    """`rule` on the uploads whose numbers are all finite; the server discards the others.

    A discarded client counts as one that did not respond. Four of six common rules pass a NaN
    on, so this check comes before any of them. It needs all uploads at once, so a sum in fixed
    point becomes one in floats.
    """

    def of_cohort(uploads: Uploads, alpha: jax.Array, responded: jax.Array) -> Upload:
        # A norm that overflows belongs to an upload that no honest client makes.
        kept = responded & jnp.isfinite(uploads.norms())
        uploads = uploads.masked(kept)
        alpha = rule.weights(alpha, kept)
        if rule.combine is None:
            return uploads.total(alpha)
        return rule.combine(uploads, alpha, kept)

    return rule._replace(needs=Needs.WHOLE, combine=of_cohort, exact=False)


def norm_bound() -> Reduce:
    """The mean of the uploads, each shortened to the median of the cohort's norms.

    The bound is the server's, so a hostile client cannot evade it; `--clip_norm` is applied by
    the clients themselves. (Sun et al. 2019, with the median in place of a constant.)
    """

    def of_cohort(uploads: Uploads, alpha: jax.Array, responded: jax.Array) -> Upload:
        norms = jnp.where(responded, uploads.norms(), 0.0)
        bound = middle(norms[:, None], responded)[0]
        return uploads.total(alpha * clip_factors(norms, bound))

    return Reduce(Needs.WHOLE, normalised_weights, of_cohort)


def bulyan(byzantine_share: float) -> Reduce:
    """Bulyan (El Mhamdi et al. 2018): Krum selects n - 2 f uploads; coordinate by coordinate,
    the n - 4 f values nearest to the median are averaged.

    *choice*: the selection takes the lowest Krum scores of one pass. The published one removes
    the best upload and scores the rest again, n - 2 f times.

    Args:
      byzantine_share: f / n, below 1/4: the rule needs n >= 4 f + 3.
    """

    def of_cohort(uploads: Uploads, alpha: jax.Array, responded: jax.Array) -> Upload:
        num_responded = jnp.sum(responded)
        byzantine = share_of(byzantine_share, num_responded)
        scores = krum_scores(uploads.products(), responded, byzantine)
        place = jnp.argsort(jnp.argsort(scores))
        selected = responded & (place < jnp.maximum(num_responded - 2 * byzantine, 1))
        count = jnp.sum(selected)
        nearest = jnp.maximum(count - 2 * byzantine, 1)

        def one(values: jax.Array) -> jax.Array:
            distance = jnp.abs(values - middle(values, selected)[None, :])
            distance = jnp.where(selected[:, None], distance, jnp.inf)
            _, values = jax.lax.sort((distance, values), dimension=0, num_keys=1)
            kept = (jnp.arange(values.shape[0]) < nearest)[:, None]
            mean = jnp.sum(jnp.where(kept, values, 0.0), axis=0) / nearest.astype(values.dtype)
            return jnp.where(num_responded > 0, mean, 0.0)

        return uploads.coordinatewise(one)

    return Reduce(Needs.WHOLE, normalised_weights, of_cohort)


def row_median(byzantine_share: float) -> Reduce:
    """For each item, the median over the clients that touched its row, on the scale of the mean.

    A median over all clients is 0 for a row that few of them touch; one over those that touched
    it belongs to a single attacker where an item is cold. So a row counts only if more than 2 f
    clients touched it, and at least three; each touched row is first shortened to the median
    norm of the item's touched rows. The median is multiplied by the share of the clients that
    touched the row, which is the scale of the mean.

    With expected negatives every client touches every row, and the rule is a median of rows of
    bounded norm. Clients count alike.

    Args:
      byzantine_share: f / n.
    """

    def of_cohort(uploads: Uploads, alpha: jax.Array, responded: jax.Array) -> Upload:
        num_responded = jnp.sum(responded)
        floor = jnp.maximum(2 * share_of(byzantine_share, num_responded) + 1, 3)

        def one(row: jax.Array) -> jax.Array:
            norm = jnp.sqrt(jnp.sum(jnp.square(row), axis=1))
            touched = responded & (norm > 0)
            count = jnp.sum(touched)
            bound = middle(norm[:, None], touched)[0]
            short = trees.per_client(clip_factors(norm, bound), row) * row
            share = count.astype(row.dtype) / jnp.maximum(num_responded, 1).astype(row.dtype)
            return jnp.where(count >= floor, share * middle(short, touched), 0.0)

        return uploads.rowwise(jax.vmap(one, in_axes=1))

    return Reduce(Needs.WHOLE, normalised_weights, of_cohort)
