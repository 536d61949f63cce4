"""An audit measures a lower bound of epsilon and compares it with the claim.

It draws a release many times with and without one client, the canary, whose upload is easy to
detect. One half of the trials gives a score (the release projected on the difference of the means,
each coordinate divided by its variance) and the best threshold. The other half gives the rates of
true and of false alarms. At the stated confidence (Clopper & Pearson 1934),

    epsilon >= log((TPR_low - delta) / FPR_high),

since every (epsilon, delta) private release has TPR <= e^epsilon FPR + delta. A bound above the
claim refutes the claim. A bound below it proves nothing, because a better attack may exist.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from fedvlr_jax.reduce.rule import Reduce
from fedvlr_jax.settings import compiled, key_of
from fedvlr_jax.types import Array
from fedvlr_jax.uplink import Noise, SlotUploads, UplinkTransform, Upload

# (key, whether the canary takes part) -> all numbers that are published [D].
Release = Callable[[jax.Array, bool], jax.Array]
# Maximum number of released values in memory at once.
NUMBERS_AT_ONCE = 1 << 24


class Audit(NamedTuple):
    """The result of an audit.

    Attributes:
      lower: the lower bound of epsilon, at the confidence of the audit.
      claimed: the claimed epsilon. delta: of both.
      true_alarms, false_alarms: measured rates at the threshold.
    """

    lower: float
    claimed: float
    delta: float
    confidence: float
    true_alarms: float
    false_alarms: float

    @property
    def refuted(self) -> bool:
        """Whether the claim is wrong, with the confidence."""
        return self.lower > self.claimed


class Claim(NamedTuple):
    """The claim that a release is (epsilon, delta) differentially private."""

    epsilon: float
    delta: float


def audit(
    release: Release,
    claim: Claim,
    *,
    trials: int = 100_000,
    confidence: float = 0.99,
    seed: int = 0,
    score: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Audit:
    """Measures a lower bound of the epsilon of `release`, at the delta of the claim.

    Args:
      release: traceable by JAX; its second argument is static.
      trials: with the canary, and as many without. The bound cannot exceed about
        log(trials / 10).
      score: of releases [n, D] -> [n], higher with the canary; by default it is learned.
    """
    keys = jax.random.split(key_of(seed), 2)
    outside, inside = (
        _trials(release, there, key, trials) for there, key in zip((False, True), keys, strict=True)
    )
    return audit_draws(inside, outside, claim, confidence=confidence, score=score)


def audit_draws(
    inside: np.ndarray,
    outside: np.ndarray,
    claim: Claim,
    *,
    confidence: float = 0.99,
    score: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Audit:
    """The audit of a release that was drawn already.

    Args:
      inside, outside: the releases with the canary and without it, [n, D] each.
      score: of releases [n, D] -> [n], higher with the canary; by default it is learned.
    """
    half = len(inside) // 2
    if score is None:
        score = _projection(inside[:half], outside[:half])
    there, absent = score(inside), score(outside)
    threshold = _best_threshold(there[:half], absent[:half], claim.delta, confidence)
    true, false = there[half:] > threshold, absent[half:] > threshold
    return Audit(
        lower=lower_bound(int(true.sum()), int(false.sum()), len(true), claim.delta, confidence),
        claimed=claim.epsilon,
        delta=claim.delta,
        confidence=confidence,
        true_alarms=float(true.mean()),
        false_alarms=float(false.mean()),
    )


def lower_bound(true: int, false: int, trials: int, delta: float, confidence: float) -> float:
    """The lower bound of epsilon from `true` and `false` alarms in `trials` each; 0 for no bound.

    Each of the two rates has half of the error probability.
    """
    error = (1 - confidence) / 2
    low = stats.beta.ppf(error, true, trials - true + 1) if true else 0.0
    high = stats.beta.ppf(1 - error, false + 1, trials - false) if false < trials else 1.0
    return max(0.0, math.log((low - delta) / high)) if low > delta else 0.0


def _trials(release: Release, there: bool, key: jax.Array, trials: int) -> np.ndarray:
    one = compiled(jax.vmap(lambda k: release(k, there)))
    size = jax.eval_shape(one, jax.random.split(key, 1)).shape[1]
    at_once = max(1, min(trials, NUMBERS_AT_ONCE // size))
    keys = jax.random.split(key, trials)
    parts = [np.asarray(one(keys[i : i + at_once])) for i in range(0, trials, at_once)]
    return np.concatenate(parts)


def _projection(inside: np.ndarray, outside: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fisher's discriminant with independent coordinates."""
    difference = inside.mean(axis=0, dtype=np.float64) - outside.mean(axis=0, dtype=np.float64)
    spread = np.maximum(outside.var(axis=0, dtype=np.float64), inside.var(axis=0)) + 1e-30
    weight = difference / spread
    scale = np.abs(weight).max() or 1.0
    return lambda releases: releases @ (weight / scale)


def _best_threshold(
    inside: np.ndarray, outside: np.ndarray, delta: float, confidence: float
) -> float:
    """The quantile of `outside` that gives the highest bound on these trials."""
    ordered, trials = np.sort(outside), len(outside)
    places = np.unique(np.geomspace(1, trials, 60).astype(int))
    thresholds = ordered[trials - places]
    sorted_inside = np.sort(inside)
    above = lambda values, t: len(values) - int(np.searchsorted(values, t, side="right"))
    bound = lambda t: lower_bound(
        above(sorted_inside, t), above(ordered, t), trials, delta, confidence
    )
    return float(max(thresholds, key=bound))


def round_release(
    uplink: UplinkTransform,
    weights: Callable[[jax.Array, jax.Array], jax.Array],
    noise: Noise,
    *,
    clients: int,
    responding: int,
    strength: float,
) -> Release:
    """The audited release of one round of an aggregator.

    The canary uploads one row of an item, `strength` times as long as the bound. All other clients
    upload zeros for this item. With adaptive clipping the release also has the next bound.

    Args:
      weights: those of a `Reduce`. clients: K sampled clients, the canary last.
      responding: the number of other clients that respond.
    """
    items, width = 4, 4
    rows = np.zeros((clients, 1, 1, width), np.float32)
    uploads = SlotUploads(
        item=jnp.full((clients, 1), items, jnp.int32).at[-1, 0].set(1),
        rows_of_views=jnp.asarray(rows).at[-1, 0, 0, 0].set(strength),
        head={},
        scale=jnp.ones(clients),
        num_items=items,
        whole=False,
    )

    def release(key: jax.Array, there: bool) -> jax.Array:
        state = uplink.init()
        responded = (jnp.arange(clients) < responding).at[-1].set(there)
        bound = uplink.bound(state)
        factor, _ = uplink.weigh(uploads.norms() * bound, _Sampled(responded), state)  # type: ignore[arg-type]
        alpha = weights(jnp.ones(clients), responded)
        total = uploads.scaled(factor * bound).total(alpha)
        noisy = noise.add(key, Upload(total.views, ()), alpha, bound).views.reshape(-1)
        if uplink.noisy_update is None:
            return noisy
        # The server publishes the next bound too. Its logarithm is linear in the noisy share.
        own = jax.random.fold_in(key, 1)
        after = uplink.next_state(own, state, factor < 1, responded)
        return jnp.append(noisy, jnp.log(after / state))

    return release


def secure_release(
    uplink: UplinkTransform, reduce: Reduce, *, clients: int, strength: float
) -> Release:
    """The audited release of one round of a secure sum with the noise of `clients` clients.

    The canary always answers. If it takes part, its upload is one row, `strength` times as long as
    the bound; otherwise its upload is zeros. All others upload zeros.
    """
    items, width = 4, 4

    def release(key: jax.Array, there: bool) -> jax.Array:
        bound = uplink.bound(uplink.init())
        rows = jnp.zeros((clients, 1, 1, width)).at[-1, 0, 0, 0].set(strength * there)
        uploads = SlotUploads(
            item=jnp.ones((clients, 1), jnp.int32),
            rows_of_views=rows,
            head={},
            scale=jnp.ones(clients),
            num_items=items,
            whole=False,
        )
        responded = jnp.ones(clients, bool)
        factor, _ = uplink.weigh(uploads.norms() * bound, _Sampled(responded), uplink.init())  # type: ignore[arg-type]
        alpha = reduce.weights(jnp.ones(clients), responded)
        assert reduce.encode is not None
        who = jnp.arange(clients, dtype=jnp.int32)
        total, _ = reduce.encode(uploads.scaled(factor * bound), alpha, who, key)
        return total.views.reshape(-1).astype(jnp.float32)

    return release


def local_release(uplink: UplinkTransform, noise: Noise, *, strength: float) -> Release:
    """The audited release of one client: the canary's noisy upload, one row or its opposite."""
    width = 4

    def release(key: jax.Array, there: bool) -> jax.Array:
        bound = uplink.bound(uplink.init())
        row = jnp.zeros((1, width)).at[0, 0].set(strength if there else -strength)
        norm = jnp.full(1, strength) * bound
        factor, _ = uplink.weigh(norm, _Sampled(jnp.ones(1, bool)), uplink.init())  # type: ignore[arg-type]
        noisy = noise.add(key, Upload(factor[:, None] * bound * row, ()), jnp.ones(1), bound)
        return noisy.views.reshape(-1)

    return release


def canary_rounds(q: float, shift: float, rounds: int, multiplier: float) -> Release:
    """The release [rounds] of all rounds, for an attacker that knows all other uploads.

    In each round the canary moves the sum by `shift`, in units of the bound, with probability `q`.
    """

    def release(key: jax.Array, there: bool) -> jax.Array:
        who, noise = jax.random.split(key)
        taken = jax.random.bernoulli(who, q, (rounds,)) & there
        return jnp.where(taken, shift, 0.0) + multiplier * jax.random.normal(noise, (rounds,))

    return release


class _Sampled(NamedTuple):
    """The fields of a cohort that `UplinkTransform.weigh` reads."""

    responded: Array


def mixture_score(q: float, shift: float, deviation: float) -> Callable[[np.ndarray], np.ndarray]:
    """Function [n, T] -> [n]: the log likelihood ratio of N(0, s^2) against its mixture with
    N(shift, s^2), summed over the rounds."""

    def score(releases: np.ndarray) -> np.ndarray:
        exponent = (releases * shift - shift**2 / 2) / deviation**2
        return np.sum(np.log1p(q * np.expm1(np.minimum(exponent, 500.0))), axis=1)

    return score
