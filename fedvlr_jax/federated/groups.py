"""GFMFR (Zhang et al., WWW 2026): groups of clients, and distillation from a group to its clients.

After each round the server

1. groups the clients that responded by their scoring heads (`clustering.py`),
2. takes for each group the mean head of its clients, and the mean item table T_g of its clients,
3. fits a network from the features and a group's embedding to T_g (`fusion/group_network.py`),
4. sends the clients of group g the preferences t_i = sigmoid(<head_g, network(g, i)> + bias_g).

In later rounds a client adds to its loss, a mean over rows i,

    w * mean_i KL([t_i, 1 - t_i] || [p_i, 1 - p_i]),    p_i = sigmoid(its score),
    w = group_weight * cos(pi t / (2 group_rounds)).

A client without a group distils nothing.

*choice*, where this departs from the published code:

- The published w also has the factor cross-entropy / KL, so that both terms have one size. The KL
  is quadratic near its minimum, so the factor grows as client and group agree (to 137 in an early
  round of KU), and local SGD diverges at the learning rates of this package. Here w has no factor.
- A client that trains a copy of the broadcast (--upload=delta) has its own table and head. One that
  uploads gradients has fixed ones, so the server takes for it one step of --delta_lr along the mean
  gradient of its epochs. With --fedavg_rows=tuned its own table is known: --item_lr times the sum.
- The network is fitted by Adam on all pairs of a group and an item at once, for fewer epochs. It
  continues from the last round. It predicts the difference of a row from the mean row, in standard
  deviations: the rows are small, and a step of Adam on the rows themselves would overshoot.
- The weight ends at --group_rounds, not at the last round, so that a run can be prolonged.
- A client that does not respond keeps its group. A group without clients keeps its preferences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedvlr_jax import trees
from fedvlr_jax.config import Config
from fedvlr_jax.federated.clustering import renumbered, spectral_groups
from fedvlr_jax.federated.devices import replicate
from fedvlr_jax.federated.local import Broadcast, Task
from fedvlr_jax.federated.losses import Loss
from fedvlr_jax.federated.participation import local_epochs_of
from fedvlr_jax.federated.separate_compilation import compiled_alone
from fedvlr_jax.federated.streams import GROUP, stream
from fedvlr_jax.fusion.group_network import GroupNetwork
from fedvlr_jax.types import PyTree, ServerState
from fedvlr_jax.uplink import Uploads

NETWORK_LR = 0.003


class Preferences(NamedTuple):
    """The preferences of all groups, as the server sends them; a client reads those of its group.

    Attributes:
      label: probabilities [G, I]. group: int32 [N] of all clients, -1 for none.
      weight: w of the module's docstring [].
    """

    label: jax.Array
    group: jax.Array
    weight: jax.Array


class Teacher(NamedTuple):
    """The preferences that some clients distil: label [..., I] and weight [...]; 0 for none."""

    label: jax.Array
    weight: jax.Array


def groups_memory(
    config: Config, features: Mapping[str, jax.Array], num_clients: int, width: int, key: jax.Array
) -> PyTree:
    """`ServerState.groups` before the first round, or ().

    Args:
      features: {modality: [I, d_m]}. key: of the run.
    """
    if not config.groups.active:
        return ()
    count = config.groups.groups
    row = {name: jnp.zeros((1, x.shape[1])) for name, x in features.items()}
    (num_items,) = {x.shape[0] for x in features.values()}
    network = GroupNetwork(count, width).init(stream(key, GROUP), row)["params"]
    return {
        "group": jnp.full(num_clients, -1, jnp.int32),
        "label": jnp.full((count, num_items), 0.5),
        "network": network,
        "optimizer": optax.adam(NETWORK_LR).init(network),
    }


def preferences(config: Config, server: ServerState) -> Preferences | None:
    """The preferences of a broadcast; None without groups."""
    memory = server.groups
    if not memory:
        return None
    ends = config.groups.group_rounds
    part = jnp.minimum(server.round, ends).astype(jnp.float32) / ends
    fade = jnp.where(server.round < ends, jnp.cos(0.5 * jnp.pi * part), 0.0)
    return Preferences(memory["label"], memory["group"], config.groups.group_weight * fade)


def teacher_of(groups: Preferences | None, client: Any) -> Teacher | None:
    """The preferences of these clients' groups, client int32 [K]."""
    if groups is None:
        return None
    group = groups.group.at[client].get(mode="fill", fill_value=-1)
    weight = jnp.where(group >= 0, groups.weight, 0.0)
    return Teacher(groups.label[jnp.maximum(group, 0)], weight)


def divergence(scores: jax.Array, label: jax.Array, counts: jax.Array) -> jax.Array:
    """sum_i counts_i KL([t_i, 1 - t_i] || [p_i, 1 - p_i]), p = sigmoid(scores); [..., M] -> [...].

    Its gradient by the scores is `divergence_slope`.
    """
    entropy = jax.scipy.special.entr(label) + jax.scipy.special.entr(1 - label)
    cross = label * jax.nn.softplus(-scores) + (1 - label) * jax.nn.softplus(scores)
    return jnp.sum(counts * (cross - entropy), axis=-1)


def divergence_slope(scores: jax.Array, label: jax.Array, counts: jax.Array) -> jax.Array:
    """The gradient of `divergence` by the scores [..., M]."""
    return counts * (jax.nn.sigmoid(scores) - label)


def with_teacher(loss: Loss, teacher: Teacher | None) -> Loss:
    """`loss` plus the weighted `divergence` over its rows; `loss` itself without a teacher."""
    if teacher is None:
        return loss
    label, weight = teacher

    def value(scores, positive, negative):
        term = divergence(scores, label, positive + negative)
        return loss.value(scores, positive, negative) + weight * term

    def slope(scores, positive, negative):
        term = divergence_slope(scores, label, positive + negative)
        return loss.slope(scores, positive, negative) + weight[..., None] * term

    return Loss(value, slope)


def regrouped(
    task: Task,
    before: ServerState,
    after: ServerState,
    broadcast: Broadcast,
    received: Any,
    features: Mapping[str, jax.Array],
    mesh: Any,
) -> ServerState:
    """`after`, with the groups of a finished round. The same state without groups.

    Nothing changes where no client responded, or where a number of the round was not finite; then
    its number did not change either.

    Args:
      before, after: the round. received: `round.Received`, with the `Uploads` of all clients.
    """
    if not before.groups:
        return after
    received = received._replace(reports=replicate(received.reports, mesh))
    key = stream(before.key, GROUP, before.round)
    client, federation = received.reports.client, task.config.federation
    epochs = local_epochs_of(before.key, before.round, client, federation)
    step = lambda *operands: _next_memory(task, *operands)
    operands = before.groups, broadcast, (received, epochs), features, key
    new = compiled_alone(before.round >= 0, step, *operands)
    counts = (after.round > before.round) & jnp.any(received.reports.responded)
    return after._replace(groups=trees.select(counts, new, before.groups))


def _next_memory(
    task: Task,
    memory: PyTree,
    broadcast: Broadcast,
    trained: tuple[Any, jax.Array],
    features: Mapping[str, jax.Array],
    key: jax.Array,
) -> PyTree:
    """`ServerState.groups` after a round; see the module's docstring.

    Args:
      trained: `round.Received`, and the local epochs of its clients int32 [K].
    """
    count = task.config.groups.groups
    (upload, _, reports), local_epochs = trained
    even = with_equal_epochs(task, upload, local_epochs)
    client, responded = reports.client, reports.responded
    earlier = memory["group"].at[client].get(mode="fill", fill_value=-1)
    rows = scoring_heads(task, broadcast, even)
    group = spectral_groups(rows, responded, count, key)
    group = renumbered(group, earlier, responded, count)

    member = (group[None, :] == jnp.arange(count)[:, None]) & responded[None, :]
    size = jnp.sum(member, axis=1)
    share = jnp.where(member, 1 / jnp.maximum(size, 1)[:, None].astype(rows.dtype), 0.0)
    table = mean_tables(task, broadcast, upload if _knows_tables(task) else even, share)
    fitted = memory["network"], memory["optimizer"]
    epochs = task.config.groups.group_epochs
    network, optimizer, fused = fit_network(fitted, epochs, features, table, size > 0)

    heads = share @ rows
    scores = jnp.einsum("gid,gd->gi", fused, heads[:, :-1]) + heads[:, -1:]
    everyone = memory["group"].shape[0]
    return {
        "group": memory["group"].at[jnp.where(responded, client, everyone)].set(group, mode="drop"),
        "label": jnp.where((size > 0)[:, None], jax.nn.sigmoid(scores), memory["label"]),
        "network": network,
        "optimizer": optimizer,
    }


def with_equal_epochs(task: Task, upload: Uploads, epochs: jax.Array) -> Uploads:
    """Gradients as if every client had trained --local_epochs; the mean of its epochs stays.

    Args:
      epochs: int32 [K], of each client.
    """
    federation = task.config.federation
    if federation.upload == "delta" or not federation.min_local_epochs:
        return upload
    return upload.scaled(federation.local_epochs / jnp.asarray(epochs, float))


def scoring_heads(task: Task, broadcast: Broadcast, upload: Uploads) -> jax.Array:
    """[K, d + 1]: the vector and the bias of each client's scoring head after the round."""
    linear, step = task.model.backbone.linear, _step(task, broadcast)
    assert linear is not None
    own = jax.tree.map(
        lambda whole, moved: whole[None] - step * moved, broadcast.head, upload.scaled_head()
    )
    vector, bias = jax.vmap(lambda head: linear(head, {}))(own)
    return jnp.concatenate([vector, bias[:, None]], axis=1)


def mean_tables(task: Task, broadcast: Broadcast, upload: Uploads, share: jax.Array) -> jax.Array:
    """[G, I, d]: the mean item tables of the clients, weighted by share [G, K]."""
    # One vector per item: the fusions that groups support have one view.
    means = jax.lax.map(lambda weight: upload.total(weight).views[:, 0, :], share)
    return broadcast.views[None, :, 0, :] - _table_step(task, broadcast) * means


def _step(task: Task, broadcast: Broadcast) -> Any:
    """The step along an upload from the broadcast to the client's own shared parameters."""
    federation = task.config.federation
    if federation.upload == "delta":
        return 1.0
    return broadcast.rates.delta_lr / federation.local_epochs


def _table_step(task: Task, broadcast: Broadcast) -> Any:
    """The same, to the client's own item table."""
    return broadcast.rates.item_lr if _knows_tables(task) else _step(task, broadcast)


def _knows_tables(task: Task) -> bool:
    """Whether a client's own table follows from the sum of its gradients."""
    tuned = task.model.backbone.item_rows == "tuned"
    return tuned and task.config.federation.upload == "gradient"


def fit_network(
    fitted: tuple[PyTree, PyTree],
    epochs: int,
    features: Mapping[str, jax.Array],
    table: jax.Array,
    has_clients: jax.Array,
) -> tuple[PyTree, PyTree, jax.Array]:
    """(the network after its epochs, its optimizer's state, the fused items [G, I, d]).

    Args:
      fitted: the network and its optimizer's state before.
      table: the mean item tables of the groups [G, I, d]. has_clients: bool [G], the groups whose
        table is fitted.
    """
    network = GroupNetwork(table.shape[0], table.shape[2])
    optimizer = optax.adam(NETWORK_LR)
    mean = jnp.mean(table, axis=(0, 1), keepdims=True)
    deviation = jnp.sqrt(jnp.mean(jnp.square(table - mean)))
    target = (table - mean) / jnp.maximum(deviation, 1e-30)
    predicted = lambda params: jnp.asarray(network.apply({"params": params}, features))

    def loss(params: PyTree) -> jax.Array:
        square = jnp.mean(jnp.square(predicted(params) - target), axis=(1, 2))
        return jnp.sum(jnp.where(has_clients, square, 0.0)) / jnp.sum(has_clients)

    def epoch(_: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        params, state = carry
        # Optax raises its decays to an integer power, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            change, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, change), state

    params, state = jax.lax.fori_loop(0, epochs, epoch, fitted)
    return params, state, mean + deviation * predicted(params)
