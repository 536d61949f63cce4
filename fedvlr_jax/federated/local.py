"""The model, the loss and the result of local training, common to all plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.config import Config
from fedvlr_jax.data.cohorts import NegativePool
from fedvlr_jax.federated.aggregator import Aggregator
from fedvlr_jax.fusion import Fusion, make_fusion, view_names
from fedvlr_jax.fusion.operators import softmax
from fedvlr_jax.models import BACKBONES, Backbone, Penalty
from fedvlr_jax.settings import key_of, shapes_of
from fedvlr_jax.types import Array, Cohort, PyTree, Rates
from fedvlr_jax.uplink import Upload, Uploads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A backbone behind a fusion, for items of a data set.

    With v_i the fused vector of item i, O the client's history and c = `history_weight`, the
    score of an item is

        f(v_i; theta) + c <v_i, (1 / |O|) sum over j in O without i of v_j>.

    Item i itself is left out because a history predicts each of its own items trivially; without
    it, the second term learns the likeness to other items (as in FISM, Kabbur et al. 2013, and by
    the zero diagonal of EASE). For an item outside O it is c <v_i, h>, h the mean of O.

    A client's private rows are {"head": ..., "router": ...} and, where the backbone keeps
    item rows, "items": [I, d].
    """

    backbone: Backbone
    fusion: Fusion
    num_items: int
    width: int
    init_scale: float
    history_weight: float

    @property
    def has_private_vector(self) -> bool:
        """Whether a client's score is <item, its own vector> + bias."""
        head = shapes_of(self.init_private, key_of(0))["head"]
        return self.backbone.linear is not None and "vector" in head

    def init_shared(self, key: jax.Array) -> PyTree:
        """{"items": [I, d], "fusion": gamma, "head": ...}."""
        items, fusion, head = jax.random.split(key, 3)
        return {
            "items": self.init_scale * jax.random.normal(items, (self.num_items, self.width)),
            "fusion": self.fusion.init_shared(fusion),
            "head": self.backbone.init_shared(head, self.width),
        }

    def init_private(self, key: jax.Array) -> PyTree:
        """One client's private rows."""
        head, router = jax.random.split(key)
        private = {
            "head": self.backbone.init_private(head, self.width),
            "router": self.fusion.init_router(router),
        }
        if self.backbone.item_rows:
            private["items"] = jnp.zeros((self.num_items, self.width))
        return private


def identity_view(config: Config) -> str:
    """The view of the ID table in --views=auto: an initialization in closed form needs the raw
    rows."""
    return "id" if config.init.init == "random" else "table"


def make_model(
    config: Config,
    num_items: int,
    widths: Mapping[str, int],
    *,
    backbone: Backbone | None = None,
    fusion: Fusion | None = None,
) -> Model:
    """The model that `config` names, for a catalogue with the given feature widths.

    Args:
      backbone, fusion: in place of those that `config` names.
    """
    model = config.model
    if fusion is None:
        fusion = make_fusion(
            model.fusion,
            views=view_names(model.views, widths, identity_view(config)),
            width=model.width,
            hidden=model.router_hidden,
            widths=widths,
        )
    if backbone is None:
        backbone = BACKBONES[model.backbone](apart=model.fedrap_repulsion, sparse=model.fedrap_l1)
    return Model(
        backbone=backbone,
        fusion=fusion,
        num_items=num_items,
        width=model.width,
        init_scale=model.init_scale,
        history_weight=model.history_weight,
    )


class Broadcast(NamedTuple):
    """The server's broadcast: all views [I, G, d], the shared head, the round, the rates.

    Attributes:
      uplink: the state of the uplink transform, such as the bound of adaptive clipping.
      view_cache: not transmitted: precomputed once a round from the views, by the plan.
    """

    views: jax.Array
    head: PyTree
    round: jax.Array
    rates: Rates
    uplink: PyTree = ()
    view_cache: PyTree = None


class ClientNumbers(NamedTuple):
    """A client's arrays that must be finite, in the order in which `bad_leaf` counts leaves."""

    loss: Any
    head: PyTree
    router: PyTree
    items: PyTree = None


class LocalResult(NamedTuple):
    """The result of the local epochs of a chunk of K clients.

    Attributes:
      private: their private rows after the round, or the input of `round.Plan.write_back`, leaves
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


class Loss(NamedTuple):
    """A loss of clients over their rows: functions of (scores, positive, negative), [..., M] each.

    `positive` and `negative` are the weights of each row with label 1 and label 0.

    Attributes:
      value: the sum over the rows [...].
      slope: its gradient by the scores [..., M].
    """

    value: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    slope: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def make_loss(task: Task) -> Loss:
    """The loss that --loss names."""
    return BINARY if task.config.federation.loss == "bce" else softmax_loss(task.pool)


BINARY = Loss(
    value=lambda scores, positive, negative: jnp.sum(
        positive * jax.nn.softplus(-scores) + negative * jax.nn.softplus(scores), axis=-1
    ),
    slope=lambda scores, positive, negative: (
        (positive + negative) * jax.nn.sigmoid(scores) - positive
    ),
)


def softmax_loss(pool: NegativePool) -> Loss:
    """Cross-entropy of each positive i, times its weight, among the history O and the pool,

        -s_i + log sum of exp(s_j) over j in O or pool.

    The pool's part of the sum is estimated from the negatives, each of which represents the same
    number of items; with expected negatives it is exact.
    """

    def parts_of(positive, negative):
        """(items of the sum that each row represents [..., M], the number of positives
        [..., 1])."""
        count = jnp.sum(positive, axis=-1, keepdims=True)
        drawn = jnp.sum(negative, axis=-1, keepdims=True)
        per_negative = (pool.item.shape[0] - count) / jnp.where(drawn > 0, drawn, 1)
        items = (positive > 0).astype(positive.dtype) + per_negative * negative
        # A padding row has no positive; 1 keeps its sum finite.
        return jnp.where(count > 0, items, 1.0), count

    def value(scores, positive, negative):
        parts, count = parts_of(positive, negative)
        total = jax.nn.logsumexp(scores, axis=-1, b=parts)
        return count[..., 0] * total - jnp.sum(positive * scores, axis=-1)

    def slope(scores, positive, negative):
        parts, count = parts_of(positive, negative)
        return count * softmax(scores + jnp.log(parts)) - positive

    return Loss(value, slope)


def row_penalty(
    penalty: Penalty, weights: jax.Array, sizes: jax.Array, common: jax.Array, personal: jax.Array
) -> jax.Array:
    """[R]: the penalty for ONE client's common vectors [R, d] and its personal rows [R, d].

    Args:
      weights: of the client's router [G]. sizes: the mean |F_g| of each row's views [R, G].
    """
    distance = jnp.mean(jnp.square(personal - common), axis=-1)
    return penalty.sparse * (sizes @ weights) - penalty.apart * distance


def likeness(
    vectors: jax.Array, mean: jax.Array, positive: jax.Array, length: jax.Array, weight: float
) -> jax.Array:
    """The history term of ONE client's scores [M]: weight * <v_i, the rest of the history>.

    Args:
      vectors: the fused vectors [M, d]; mean: their mean over the history [d].
      positive: the weight of each item in the history [M]. length: of the history [].
    """
    itself = positive * jnp.sum(jnp.square(vectors), axis=1) / length
    return weight * (vectors @ mean - itself)


def client_keys(key: jax.Array, client: Array, epochs: int) -> jax.Array:
    """Typed keys [K, A], one a client and local epoch; they do not depend on a client's row."""
    one = lambda c: jax.vmap(lambda a: jax.random.fold_in(jax.random.fold_in(key, c), a))(
        jnp.arange(epochs)
    )
    return jax.vmap(one)(client)
