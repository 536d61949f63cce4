"""What the plans of a client's local training share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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

    Leaving i itself out is what makes the second term learn the likeness to other items (as in
    FISM, Kabbur et al. 2013, and by the zero diagonal of EASE): a history predicts each of
    its own items trivially. For an item outside O it is c <v_i, h>, h the mean of O.

    A client's private rows are {"head": ..., "router": ...}; "items": [I, d] where the backbone
    keeps item rows; and "residual": [I, G, d] where `keeps_residual`, which training does not see.
    """

    backbone: Backbone
    fusion: Fusion
    num_items: int
    width: int
    init_scale: float
    history_weight: float
    keeps_residual: bool = False

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
        if self.keeps_residual:
            shape = self.num_items, len(self.fusion.names), self.width
            private["residual"] = jnp.zeros(shape)
        return private


def identity_view(config: Config) -> str:
    """The view of the ID table that --views=auto means: a start in closed form needs its rows."""
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
        keeps_residual=config.fleet.upload_rows > 0,
    )


class Broadcast(NamedTuple):
    """What the server sends: all views [I, G, d], the shared head, the round, the rates.

    Attributes:
      uplink: the state of the uplink transform, such as the bound of adaptive clipping.
      view_cache: not transmitted; what a plan computes from the views once for all clients.
    """

    views: jax.Array
    head: PyTree
    round: jax.Array
    rates: Rates
    uplink: PyTree = ()
    view_cache: PyTree = None


class ClientNumbers(NamedTuple):
    """What of a client has to be finite, in the order in which `bad_leaf` counts leaves."""

    loss: Any
    head: PyTree
    router: PyTree
    items: PyTree = None


class LocalResult(NamedTuple):
    """What a chunk of clients gives back.

    Attributes:
      private: their private rows after the round, or of what they can be made: see
        `round.Plan.write_back`. What it holds for an absent client is not looked at.
      uploads: one of each client; or, from a plan that gives sums alone, the sum by alpha.
      loss: float32 [K], each client's loss in its first epoch (0 where absent).
      bad_leaf: int32 [K], the first leaf of the client's `ClientNumbers` that is not finite,
        or -1.
    """

    private: PyTree
    uploads: Uploads | Upload
    loss: jax.Array
    bad_leaf: jax.Array


# (broadcast, cohort, alpha [K], private, key) -> LocalResult
LocalUpdate = Callable[[Broadcast, Cohort, jax.Array, PyTree, jax.Array], LocalResult]
# (broadcast, `LocalResult.private`, private rows before the round) -> those after it
Settle = Callable[[Broadcast, PyTree, PyTree], PyTree]


class Task(NamedTuple):
    """What a plan needs to know to train clients.

    Attributes:
      aggregator: what happens to the uploads.
      weighted: whether the items of a history count unequally (`Histories.weight`).
    """

    model: Model
    config: Config
    pool: NegativePool
    aggregator: Aggregator
    weighted: bool = False


def views_stay(task: Task) -> bool:
    """Whether all clients can work on the views as broadcast, and on every item of them.

    Sampled negatives, or a moving copy of the views, need rows of each client's own.
    """
    federation = task.config.federation
    return federation.negatives == "expected" and federation.upload == "gradient"


def num_rows(count: Array, pool: NegativePool, num_negatives: int) -> jax.Array:
    """int32: rows of a client's loss, positives and negatives; at least 1."""
    has_negatives = count < pool.item.shape[0]
    return jnp.maximum(count * jnp.where(has_negatives, 1 + num_negatives, 1), 1)


class Loss(NamedTuple):
    """A loss of clients over their rows, of scores, positive and negative [..., M].

    positive, negative: how much each row counts in it with label 1 and 0.

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
    """Cross-entropy of each positive i, as much as it counts, among the history O and the pool,

        -s_i + log sum of exp(s_j) over j in O or pool.

    The pool's part of the sum is estimated from the negatives, each of which stands for equally
    many items; with expected negatives it is exact.
    """

    def parts_of(positive, negative):
        """For how many items of the sum each row stands [..., M]; of them positives [..., 1]."""
        count = jnp.sum(positive, axis=-1, keepdims=True)
        drawn = jnp.sum(negative, axis=-1, keepdims=True)
        each = (pool.item.shape[0] - count) / jnp.where(drawn > 0, drawn, 1)
        # A place of no client has no rows: any finite sum will do.
        return jnp.where(
            count > 0, (positive > 0).astype(positive.dtype) + each * negative, 1.0
        ), count

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
    """[R]: a penalty for ONE client's common vectors [R, d] and the private rows beside them.

    weights [G] are the client's, sizes [R, G] the mean |F_g| of each row's views.
    """
    distance = jnp.mean(jnp.square(personal - common), axis=-1)
    return penalty.sparse * (sizes @ weights) - penalty.apart * distance


def likeness(
    vectors: jax.Array, mean: jax.Array, positive: jax.Array, length: jax.Array, weight: float
) -> jax.Array:
    """The history term of ONE client's scores [M]: weight * <v_i, the rest of the history>.

    Args:
      vectors: the fused vectors [M, d]; mean: their mean over the history [d].
      positive: [M], how much an item counts in the history; length: [], how long that is.
    """
    itself = positive * jnp.sum(jnp.square(vectors), axis=1) / length
    return weight * (vectors @ mean - itself)


def client_keys(key: jax.Array, client: Array, epochs: int) -> jax.Array:
    """Typed keys [K, A]: one a client and local epoch, whatever the client's place."""
    one = lambda c: jax.vmap(lambda a: jax.random.fold_in(jax.random.fold_in(key, c), a))(
        jnp.arange(epochs)
    )
    return jax.vmap(one)(client)
