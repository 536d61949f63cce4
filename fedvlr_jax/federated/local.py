"""The inputs and the result of the local training of a chunk of clients, and steps of all plans.

A plan is a `LocalUpdate`: it trains the clients of a chunk on the server's `Broadcast`, and returns
a `LocalResult`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.config import Config
from fedvlr_jax.data.cohorts import NegativePool
from fedvlr_jax.federated.aggregator import Aggregator
from fedvlr_jax.federated.model import Model
from fedvlr_jax.models import Penalty
from fedvlr_jax.types import Array, Cohort, PyTree, Rates
from fedvlr_jax.uplink import Upload, Uploads


class Broadcast(NamedTuple):
    """The server's broadcast: all views [I, G, d], the shared head, the round, the rates.

    Attributes:
      uplink: the state of the uplink transform, such as the bound of adaptive clipping.
      view_cache: not transmitted: precomputed once a round from the views, by the plan.
      popular, groups: a `Popular` with --defense_*, and the `Preferences` with --groups.
    """

    views: jax.Array
    head: PyTree
    round: jax.Array
    rates: Rates
    uplink: PyTree = ()
    view_cache: PyTree = None
    popular: Any = None
    groups: Any = None


class ClientNumbers(NamedTuple):
    """A client's arrays that must be finite, in the order in which `bad_leaf` counts leaves."""

    loss: Any
    head: PyTree
    router: PyTree
    items: PyTree = None


class LocalResult(NamedTuple):
    """The result of the local epochs of a chunk of K clients.

    Attributes:
      private: their private rows after the round, or the input of `plan.Plan.write_back`, leaves
        [K, ...]. The rows of an absent client are never read.
      uploads: one a client; or, from a plan that gives sums only, the sum weighted by alpha.
      loss: float32 [K], each client's loss in its first epoch (0 where absent).
      bad_leaf: int32 [K], the first leaf of the client's `ClientNumbers` that is not finite,
        or -1.
    """

    private: PyTree
    uploads: Uploads | Upload
    loss: jax.Array
    bad_leaf: jax.Array


def local_result(
    cohort: Cohort,
    trained: PyTree,
    uploads: Uploads | Upload,
    loss: jax.Array,
    *,
    private: PyTree | None = None,
) -> LocalResult:
    """The end of every plan: the result of a chunk, and the first leaf that is not finite.

    Args:
      trained: {"head", "router" and, where a client has item rows, "items"}, leaves [K, ...]:
        their numbers are checked.
      loss: float [K], of the first epoch, also where a client is absent.
      private: `LocalResult.private`, if it is not `trained`.
    """
    bad_leaf = trees.bad_leaf_of_rows(ClientNumbers(loss, **trained), len(loss))
    return LocalResult(
        private=trained if private is None else private,
        uploads=uploads,
        loss=jnp.where(cohort.responded, loss, 0.0),
        bad_leaf=bad_leaf,
    )


def once_a_client(tree: PyTree, num_clients: int) -> PyTree:
    """The leaves of `tree` repeated along a leading client axis [K, ...]."""
    repeat = lambda leaf: jnp.broadcast_to(leaf, (num_clients, *leaf.shape))
    return jax.tree.map(repeat, tree)


def sgd_step(
    rates: Rates, trained: dict[str, PyTree], gradient: dict[str, PyTree]
) -> dict[str, PyTree]:
    """One SGD step of private rows; the head decays.

    Args:
      trained: any of "head", "router" and "items".
      gradient: of the loss by these rows.
    """
    step = {"head": rates.client_lr, "router": rates.router_lr, "items": rates.item_lr}
    grad_head = trees.axpy(rates.client_decay, trained["head"], gradient["head"])
    gradient = {**gradient, "head": grad_head}
    return {name: trees.axpy(-step[name], gradient[name], trained[name]) for name in trained}


# (broadcast, cohort, alpha [K], private, key) -> LocalResult
LocalUpdate = Callable[[Broadcast, Cohort, jax.Array, PyTree, jax.Array], LocalResult]
# (broadcast, `LocalResult.private`, private rows before the round) -> private rows after it
WriteBack = Callable[[Broadcast, PyTree, PyTree], PyTree]


class Task(NamedTuple):
    """The inputs of a plan: model, choices, negatives and the server's rule.

    Attributes:
      pool: the items that may be negatives.
      aggregator: the server's treatment of the uploads.
      weighted: whether the items of a history count unequally (`Histories.weight`).
    """

    model: Model
    config: Config
    pool: NegativePool
    aggregator: Aggregator
    weighted: bool = False


def views_stay(task: Task) -> bool:
    """Whether all clients can train on the broadcast views, and on every item of them.

    Sampled negatives, and a copy of the views that a client moves, need rows of its own.
    """
    federation = task.config.federation
    return federation.negatives == "expected" and federation.upload == "gradient"


def num_rows(count: Array, pool: NegativePool, num_negatives: int) -> jax.Array:
    """int32: rows of a client's loss, positives and negatives; at least 1."""
    has_negatives = count < pool.item.shape[0]
    return jnp.maximum(count * jnp.where(has_negatives, 1 + num_negatives, 1), 1)


def row_penalty(
    penalty: Penalty, weights: jax.Array, sizes: jax.Array, common: jax.Array, personal: jax.Array
) -> jax.Array:
    """[R]: the penalty for ONE client's common vectors [R, d] and its personal rows [R, d].

    Args:
      weights: of the client's router [G]. sizes: the mean |F_g| of each row's views [R, G].
    """
    distance = jnp.mean(jnp.square(personal - common), axis=-1)
    return penalty.l1 * (sizes @ weights) - penalty.repulsion * distance


def client_keys(key: jax.Array, client: Array, epochs: int) -> jax.Array:
    """Typed keys [K, A], one a client and local epoch; they do not depend on a client's row."""
    one = lambda c: jax.vmap(lambda a: jax.random.fold_in(jax.random.fold_in(key, c), a))(
        jnp.arange(epochs)
    )
    return jax.vmap(one)(client)
