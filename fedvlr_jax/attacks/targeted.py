"""Attacks that raise the ranks of target items in the lists of the honest users.

Each attack sends the gradient of its own loss by the broadcast item vectors x_i [G * d], scaled to
the length of `strength` honest uploads. It models users as query vectors q, so a score is <q, x_i>.
Nonlinear heads are attacked through the item vectors only.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.attacks.attack import Attack, Forged, Seen, at_rows, forged, no_memory
from fedvlr_jax.settings import key_of
from fedvlr_jax.types import PyTree

IMAGINED_USERS, HARD_STEPS = 10, 30
POPULAR_ITEMS = 10
MOST_ROWS = 60
LIST_LENGTH = 10


def _forged_rows(seen: Seen, rows: jax.Array, gradient: jax.Array, strength: float) -> Forged:
    """The gradient [R, G * d] at some rows, as long as `strength` honest uploads."""
    return forged(seen, at_rows(seen.views.shape, rows, gradient), strength)


def _flat(views: jax.Array) -> jax.Array:
    return views.reshape(views.shape[0], -1)


def liked_gradient(queries: jax.Array, targets: jax.Array) -> jax.Array:
    """[T, D]: the gradient by the targets [T, D] of -sum over users of log sigmoid(score)."""
    left = jax.nn.sigmoid(-(targets @ queries.T))
    return -left @ queries


def imagined(targets: np.ndarray, strength: float, first: int, seed: int, *, hard: bool) -> Attack:
    """A-ra, or A-hum where `hard` (Rong et al. 2022, "Poisoning deep learning based recommender
    model in federated learning scenarios").

    Ten users are drawn from N(0, 0.01^2) once, from `seed`; the gradient raises their scores of the
    targets. A-hum first lowers these scores by 30 gradient steps on the users.
    """
    rows = jnp.asarray(targets, jnp.int32)

    def forge(seen: Seen, memory: PyTree) -> tuple[Forged, PyTree]:
        wanted = _flat(seen.views)[rows]
        # The key does not depend on the round: the users stay the same.
        queries = 0.01 * jax.random.normal(
            key_of(seed), (IMAGINED_USERS, wanted.shape[1]), wanted.dtype
        )
        if hard:

            def dislike(_: int, queries: jax.Array) -> jax.Array:
                return queries - jax.nn.sigmoid(queries @ wanted.T) @ wanted

            queries = jax.lax.fori_loop(0, HARD_STEPS, dislike, queries)
        return _forged_rows(seen, rows, liked_gradient(queries, wanted), strength), memory

    return Attack(no_memory, forge, first)


def a_ra(targets: np.ndarray, strength: float, first: int, seed: int) -> Attack:
    """A-ra; see `imagined`."""
    return imagined(targets, strength, first, seed, hard=False)


def a_hum(targets: np.ndarray, strength: float, first: int, seed: int) -> Attack:
    """A-hum; see `imagined`."""
    return imagined(targets, strength, first, seed, hard=True)


def fedrec(public: np.ndarray, targets: np.ndarray, strength: float, first: int) -> Attack:
    """FedRecAttack (Rong et al. 2022): the users are estimated from public interactions.

    Each round the vectors of the users with a public interaction are fitted to it, the item
    vectors held. The loss is the sum over users and targets of g(the score of the last place of
    the user's list - the target's score), g(x) = x above 0, else e^x - 1. The upload has the rows
    of the targets and of the items with the longest gradients, 60 at most.

    *choice*: all hostile clients send the same rows; the published ones divide the gradient.

    Args:
      public: int [2, P], user and item of each public interaction.
    """
    known = np.unique(public[0])
    place = np.searchsorted(known, public[0])
    rows = jnp.asarray(targets, jnp.int32)
    pairs = jnp.asarray(place, jnp.int32), jnp.asarray(public[1], jnp.int32)

    def estimate(vectors: jax.Array) -> jax.Array:
        """[U, D]: the users' query vectors, by 20 steps on the logistic loss."""
        items = vectors.shape[0]
        history = jnp.zeros((len(known), items), vectors.dtype).at[pairs].set(1.0)
        count = jnp.sum(history, axis=1, keepdims=True)
        negative = (1 - history) * 4 * count / items
        centred = vectors - jnp.mean(vectors, axis=0, keepdims=True)
        # The start has the direction of the history, the step the scale of the vectors.
        scale = jnp.mean(jnp.sum(jnp.square(vectors), axis=1)) + 1e-12
        queries = (history @ centred) / (count * jnp.sqrt(scale))

        def step(_: int, queries: jax.Array) -> jax.Array:
            slope = (history + negative) * jax.nn.sigmoid(queries @ vectors.T) - history
            return queries - (slope @ vectors) / (count * scale) - 0.01 * queries

        return jax.lax.fori_loop(0, 20, step, queries)

    def forge(seen: Seen, memory: PyTree) -> tuple[Forged, PyTree]:
        vectors = _flat(seen.views)
        queries = estimate(vectors)
        scores = queries @ vectors.T
        others = scores.at[:, rows].set(-jnp.inf)
        best, items = jax.lax.top_k(others, min(LIST_LENGTH, len(vectors) - len(rows)))
        behind = best[:, -1:] - scores[:, rows]
        pull = jnp.where(behind >= 0, 1.0, jnp.exp(jnp.minimum(behind, 0.0)))
        gradient = jnp.zeros_like(vectors).at[rows].add(-pull.T @ queries)
        last = jnp.sum(pull, axis=1)[:, None] * queries
        gradient = gradient.at[items[:, -1]].add(last)
        length = jnp.sum(jnp.square(gradient), axis=1).at[rows].set(jnp.inf)
        _, chosen = jax.lax.top_k(length, min(MOST_ROWS, len(length)))
        return _forged_rows(seen, chosen, gradient[chosen], strength), memory

    return Attack(no_memory, forge, first)


def pieck(
    loss_gradient: Callable[[jax.Array, jax.Array], jax.Array],
    targets: np.ndarray,
    strength: float,
    first: int,
) -> Attack:
    """PIECK (Zhang et al. 2024): popular items are those whose vectors move most.

    The hostile clients remember the last broadcast that they saw and how far each item has moved
    since the first. They know popular items from the second broadcast on, and send what they
    trained until then.

    Args:
      loss_gradient: (target vectors [T, D], popular vectors [P, D], most popular first) -> the
        gradient of the attack's loss by the targets [T, D].
    """
    rows = jnp.asarray(targets, jnp.int32)

    def init(shape: tuple[int, ...]) -> PyTree:
        items, *rest = shape
        width = int(np.prod(rest))
        return {
            "seen": jnp.zeros((), jnp.int32),
            "last": jnp.zeros((items, width)),
            "moved": jnp.zeros(items),
        }

    def forge(seen: Seen, memory: PyTree) -> tuple[Forged, PyTree]:
        vectors = _flat(seen.views)
        change = jnp.sqrt(jnp.sum(jnp.square(vectors - memory["last"]), axis=1))
        known = memory["seen"] > 0
        moved = memory["moved"] + jnp.where(known, change, 0.0)
        _, popular = jax.lax.top_k(moved.at[rows].set(-1.0), min(POPULAR_ITEMS, len(moved)))
        gradient = loss_gradient(vectors[rows], vectors[popular])
        keep, common = _forged_rows(seen, rows, gradient, strength)
        assert common is not None
        common = jax.tree.map(lambda leaf: jnp.where(known, leaf, 0.0), common)
        keep = jnp.where(known, keep, 1.0)
        after = {"seen": memory["seen"] + 1, "last": vectors, "moved": moved}
        return Forged(keep, common), after

    return Attack(init, forge, first)


def pieck_ipe(targets: np.ndarray, strength: float, first: int) -> Attack:
    """PIECK-IPE; see `pieck`."""
    return pieck(popularity_enhancement, targets, strength, first)


def pieck_uea(targets: np.ndarray, strength: float, first: int) -> Attack:
    """PIECK-UEA; see `pieck`."""
    return pieck(user_approximation, targets, strength, first)


def popularity_enhancement(targets: jax.Array, popular: jax.Array) -> jax.Array:
    """PIECK-IPE: the gradient of -sum_k w_k cos(target, popular item k), w_k falling with k."""
    weight = 1.0 / jnp.arange(1, popular.shape[0] + 1, dtype=targets.dtype)

    def loss(targets: jax.Array) -> jax.Array:
        unit = lambda x: x / (jnp.sqrt(jnp.sum(jnp.square(x), axis=1, keepdims=True)) + 1e-12)
        return -jnp.sum((unit(targets) @ unit(popular).T) @ weight)

    return jax.grad(loss)(targets)


def user_approximation(targets: jax.Array, popular: jax.Array) -> jax.Array:
    """PIECK-UEA: popular items stand for users; the gradient raises their scores of the targets."""
    return liked_gradient(popular, targets)
