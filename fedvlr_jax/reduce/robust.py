"""Further rules against hostile clients, and the check for finite uploads before every rule."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedvlr_jax.reduce import order
from fedvlr_jax.reduce.gram import krum_scores
from fedvlr_jax.reduce.mean import normalised_weights
from fedvlr_jax.reduce.rule import Reduce
from fedvlr_jax.reduce.shares import share_of
from fedvlr_jax.uplink.clip import clip_factors
from fedvlr_jax.uplink.uploads import Needs, Upload, Uploads


def finite_only(rule: Reduce) -> Reduce:
    """Applies `rule` to the uploads that are finite; the server discards the other uploads.

    The rule treats a discarded client as one that did not respond. Four of six common rules
    propagate NaN, so this check precedes every rule. It needs all uploads at once, so a fixed-point
    sum becomes a floating-point sum.
    """

    def of_cohort(uploads: Uploads, alpha: jax.Array, responded: jax.Array) -> Upload:
        # This also discards an upload whose norm overflows; no honest client sends one.
        kept = responded & jnp.isfinite(uploads.norms())
        uploads = uploads.masked(kept)
        alpha = rule.weights(alpha, kept)
        if rule.combine is None:
            return uploads.total(alpha)
        return rule.combine(uploads, alpha, kept)

    return rule._replace(needs=Needs.WHOLE, combine=of_cohort, exact=False)


def norm_bound() -> Reduce:
    """The weighted mean of the uploads after the server clips each to the median norm.

    Sun et al. 2019, with the median norm of the cohort instead of a constant. The server clips, so
    hostile clients cannot avoid it. In contrast, clients apply `--clip_norm` themselves.
    """

    def of_cohort(uploads: Uploads, alpha: jax.Array, responded: jax.Array) -> Upload:
        norms = jnp.where(responded, uploads.norms(), 0.0)
        bound = order.median(norms[:, None], responded[:, None])
        return uploads.total(alpha * clip_factors(norms, bound))

    return Reduce(Needs.WHOLE, normalised_weights, of_cohort)


def bulyan(byzantine_share: float) -> Reduce:
    """Bulyan (El Mhamdi et al. 2018).

    Krum selects n - 2 f uploads. For each coordinate, the rule averages the n - 4 f selected values
    nearest to the median.

    *choice*: one pass of Krum scores selects the uploads. The published algorithm removes the best
    upload and scores the others again, n - 2 f times.

    Args:
      byzantine_share: f / n, less than 1/4: the rule needs n >= 4 f + 3.
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
            centre = order.median(values, selected[:, None])
            return order.mean_of_nearest(values, selected[:, None], centre, nearest)

        return uploads.coordinatewise(one)

    return Reduce(Needs.WHOLE, normalised_weights, of_cohort)


def row_median(byzantine_share: float) -> Reduce:
    """For each item, the median over the clients that touched its row, on the scale of the mean.

    A client touches a row if its upload is not 0 there. A median over all clients is 0 for a row
    that few clients touch. A median over the clients that touched the row lets one attacker decide
    the row of a cold item. Therefore:

    1. A row with fewer than max(2 f + 1, 3) clients that touched it becomes 0.
    2. Otherwise the server clips each touched row to their median norm and takes the median.
    3. It multiplies the median by the fraction of clients that touched the row: a mean over all
       clients has this scale.

    With expected negatives every client touches every row; the rule is then a median of rows of
    bounded norm. A leaf of the shared head is a row that every client touches: whether a gradient
    there is exactly 0 depends on the rounding. All clients have equal weight.

    Args:
      byzantine_share: f / n.
    """

    def of_cohort(uploads: Uploads, alpha: jax.Array, responded: jax.Array) -> Upload:
        num_responded = jnp.sum(responded)
        floor = jnp.maximum(2 * share_of(byzantine_share, num_responded) + 1, 3)

        def of_items(rows: jax.Array, touched: jax.Array) -> jax.Array:
            """[B, C] of rows [K, B, C], each over the clients of touched [K, B]."""
            clients, _, width = rows.shape
            norm = jnp.sqrt(jnp.sum(jnp.square(rows), axis=2))
            bound = order.median(norm, touched)
            clipped = clip_factors(norm, bound[None])[:, :, None] * rows
            of_coordinates = jnp.repeat(touched, width, axis=1)
            middle = order.median(clipped.reshape(clients, -1), of_coordinates)
            count = jnp.sum(touched, axis=0)
            share = count.astype(rows.dtype) / jnp.maximum(num_responded, 1).astype(rows.dtype)
            found = share[:, None] * middle.reshape(rows.shape[1:])
            return jnp.where((count >= floor)[:, None], found, 0.0)

        touched = lambda rows: responded[:, None] & jnp.any(rows != 0, axis=2)
        return uploads.rowwise(
            lambda rows: of_items(rows, touched(rows)),
            lambda leaf: of_items(leaf[:, None, :], responded[:, None])[0],
        )

    return Reduce(Needs.WHOLE, normalised_weights, of_cohort)
