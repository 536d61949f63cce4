"""The arrays that travel through a federated round.

Letters used in shapes all over the project: N clients, K clients of a cohort, P padded
history length, I items, G views, d latent width, A local epochs.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

PyTree = Any
Array = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Histories:
    """Padded train histories of some clients.

    Attributes:
      client: int32 [K], the user index; outside [0, N) in a padding row.
      item: int32 [K, P], ascending within a row; padding is I, after the real items.
      count: int32 [K], the number of real items of each row; 0 only in a padding row.
      weight: float32 [K, P], the weight of each item, above 0 and 1 on average over a row;
        0 in padding. None where all weights are 1.
    """

    client: Array
    item: Array
    count: Array
    weight: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cohort:
    """The clients that one round samples, all padded to one history length.

    Attributes:
      histories: their user indices and train items.
      responded: bool [K], whether the client responds; an absent client's private rows
        stay unchanged to the bit, and it uploads nothing.
      local_epochs: int32 [K], the number of its local epochs, at most A.
      weight: float32 [K], its aggregation weight before normalisation.
    """

    histories: Histories
    responded: jax.Array
    local_epochs: jax.Array
    weight: Array


class Rates(NamedTuple):
    """Step sizes and decays, named as their flags.

    They are inputs of the compiled round, not constants: other rates do not recompile it, and vmap
    can train with many of them side by side. Python floats or float32 [].
    """

    client_lr: Any
    router_lr: Any
    item_lr: Any
    delta_lr: Any
    client_decay: Any
    server_lr_items: Any
    server_lr_fusion: Any
    server_lr_head: Any
    server_decay: Any


class ServerState(NamedTuple):
    """The server's state between two rounds.

    Attributes:
      round: int32 [], rounds finished.
      key: typed PRNG key [], derived from the seed, never advanced: all randomness is folded in
        from (key, round, client).
      shared: {"items": [I, d], "fusion": gamma, "head": the backbone's shared head}.
      optimizer: optax state over `shared`.
      uplink: the state of the aggregator's uplink transform; () where it has none.
      attack: the state of the hostile clients; () without them. The server never reads it.
      popular: the popular items so far, for the clients' defence; () without it.
      versions: with --buffer, the last broadcasts of the server, {"shared", "uplink"} of leaves
        [S, ...]; version v is at v mod S. () without.
      noise: the state of the noise; () where rounds have independent noise.
      groups: the groups of clients and their preferences; () without --groups.
    """

    round: jax.Array
    key: jax.Array
    shared: PyTree
    optimizer: PyTree
    uplink: PyTree = ()
    attack: PyTree = ()
    popular: PyTree = ()
    versions: PyTree = ()
    noise: PyTree = ()
    groups: PyTree = ()


class RoundMetrics(NamedTuple):
    """The metrics of a round.

    Attributes:
      loss: float32 [], mean of the participants' losses, each at its first epoch.
      participants: int32 [], honest clients that responded.
      clipped: float32 [], share of the participants whose upload was clipped.
      finite: bool [], False if a number of the round was not finite; its results, and
        those of all later rounds of the block, were then discarded.
      bad_client: int32 [], a client whose numbers were not finite, or -1.
      bad_leaf: int32 [], the first leaf that was not finite, of that client's `ClientNumbers`
        or of the server; -1 if all were finite.
    """

    loss: jax.Array
    participants: jax.Array
    clipped: jax.Array
    finite: jax.Array
    bad_client: jax.Array
    bad_leaf: jax.Array


# The dtype of each metric.
METRIC_TYPES: dict[str, Any] = {
    "loss": np.float32,
    "participants": np.int32,
    "clipped": np.float32,
    "finite": np.bool_,
    "bad_client": np.int32,
    "bad_leaf": np.int32,
}
