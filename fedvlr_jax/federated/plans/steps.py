"""Steps that several plans share."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.federated.local import ClientNumbers, LocalResult, Task
from fedvlr_jax.types import Array, Cohort, PyTree, Rates
from fedvlr_jax.uplink import Upload, Uploads


def views_stay(task: Task) -> bool:
    """Whether all clients can train on the broadcast views, and on every item of them.

    Sampled negatives, and a copy of the views that a client moves, need rows of its own.
    """
    federation = task.config.federation
    return federation.negatives == "expected" and federation.upload == "gradient"


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


def client_keys(key: jax.Array, client: Array, epochs: int) -> jax.Array:
    """Typed keys [K, A], one per client and local epoch; they do not depend on a client's row."""
    one = lambda c: jax.vmap(lambda a: jax.random.fold_in(jax.random.fold_in(key, c), a))(
        jnp.arange(epochs)
    )
    return jax.vmap(one)(client)
