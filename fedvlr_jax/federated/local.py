"""The inputs and the result of the local training of a chunk of clients.

A plan is a `LocalUpdate`: it trains the clients of a chunk on the server's `Broadcast`, and returns
a `LocalResult`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedvlr_jax.config import Config
from fedvlr_jax.data.cohorts import NegativePool
from fedvlr_jax.federated.aggregator import Aggregator
from fedvlr_jax.federated.model import Model
from fedvlr_jax.types import Cohort, PyTree, Rates
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


class LocalInput(NamedTuple):
    """The inputs of the local epochs of a chunk of K clients; all leaves are [K, ...].

    Attributes:
      alpha: the clients' weights in the sum of the uploads, [K].
      private: their private rows before the round.
    """

    cohort: Cohort
    alpha: jax.Array
    private: PyTree


class LocalResult(NamedTuple):
    """The result of the local epochs of a chunk of K clients.

    Attributes:
      private: their private rows after the round, or the input of `plan.Plan.write_back`, leaves
        [K, ...]. The rows of an absent client are never read.
      uploads: one per client; or, from a plan that gives sums only, the sum weighted by alpha.
      loss: float32 [K], each client's loss in its first epoch (0 where absent).
      bad_leaf: int32 [K], the first leaf of the client's `ClientNumbers` that is not finite,
        or -1.
    """

    private: PyTree
    uploads: Uploads | Upload
    loss: jax.Array
    bad_leaf: jax.Array


# (broadcast, clients, key) -> LocalResult
LocalUpdate = Callable[[Broadcast, LocalInput, jax.Array], LocalResult]
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
