"""SASRec: Self-Attentive Sequential Recommendation (Kang & McAuley, ICDM 2018, arXiv 1808.09781).

Letters used in shapes: I items, B rows, L places of a row, d width.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedvlr_jax.centralized.model import CentralizedModel, dropout
from fedvlr_jax.centralized.sampling import Batches
from fedvlr_jax.centralized.windows import (
    EMPTY,
    Rows,
    at_random_ends,
    histories_of,
    items_at,
    last_places,
    pack,
)
from fedvlr_jax.data.cohorts import negative_pool
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.errors import InputError

# The maximum of L; the paper's on sparse data.
LENGTH = 50
BLOCKS = 2
# Rows whose states are computed at once, for inference.
ROWS_AT_ONCE = 256


class SequenceBatch(NamedTuple):
    """A mini-batch: rows of places [B, L], and int32 [S], the items that a prediction may be."""

    rows: Rows
    pool: jax.Array


class Network(nn.Module):
    """Causal self-attention over the items of each user.

    Attributes:
      items: I.
      length: L.
      width: d.
    """

    items: int
    length: int
    width: int

    @nn.compact
    def __call__(self, item: jax.Array, rows: Rows, rate: jax.Array | None = None) -> jax.Array:
        """The state after each item.

        Args:
          item: int32 [B, L], the item of each place, or EMPTY.
          rows: [B, L], the user and the age of each place.
          rate: the rate of dropout, float32 []; it needs the random stream "dropout". None: no
            dropout.

        Returns:
          float32 [B, L, d]. A state depends on the items of its own user up to its place alone.
          It has no meaning where `item` is EMPTY.
        """
        normal = nn.initializers.normal(0.02)
        table = self.param("items", normal, (self.items, self.width))
        positions = self.param("positions", normal, (self.length, self.width))
        drop = lambda x: x if rate is None else dropout(self.make_rng("dropout"), x, rate)
        linear = lambda x, name: nn.Dense(self.width, use_bias=False, name=name)(x)
        earlier = (rows.user[:, :, None] == rows.user[:, None]) & (item != EMPTY)[:, None]
        earlier &= rows.age[:, :, None] < rows.age[:, None]
        # A place sees itself too, so no sum is empty.
        seen = earlier | jnp.eye(self.length, dtype=bool)[None]
        place = self.length - rows.age
        x = drop(table[item] * self.width**0.5 + positions.at[place].get(mode="clip"))
        for block in range(BLOCKS):
            normed = nn.LayerNorm(name=f"attention_norm{block}")(x)
            query, key, value = (linear(normed, f"{n}{block}") for n in ("query", "key", "value"))
            match = query @ key.swapaxes(1, 2) / self.width**0.5
            x += drop(nn.softmax(jnp.where(seen, match, -jnp.inf)) @ value)
            normed = nn.LayerNorm(name=f"forward_norm{block}")(x)
            hidden = nn.relu(nn.Dense(self.width, name=f"hidden{block}")(normed))
            x += drop(nn.Dense(self.width, name=f"output{block}")(hidden))
        return nn.LayerNorm(name="norm")(x)


def sasrec(dataset: Dataset, *, width: int = 64) -> CentralizedModel:
    """Predicts the next item of a user from the last L items, in order of time.

    s_t = the state of `Network` after item t; it sees no later item
    score(u, i) = <s_u, e_i>, s_u the state after the last item of u, e_i a row of the table that
    is also the input (eq. 6)
    loss = -mean ln (exp <s_t, e_j> / sum_i exp <s_t, e_i>) over all t, j the item after item t,
    i over the negative pool: the catalogue, or under the paper's protocol the items seen in train

    L = min(LENGTH, longest history - 1). Items of equal time are in order of their number. The
    history is the train part, at validation and at test, as for the other models.

    *choice*: the paper's loss is a binary cross-entropy with one sampled negative for each t. The
    full softmax is stronger (Klenitskiy & Vasilev 2023, arXiv 2309.07602; Petrov & Macdonald 2023,
    arXiv 2308.07192, explain why). The paper trains on the last window of L + 1 items of a user;
    here each epoch draws one window of each user, so no train item is left out.
    As in the paper: two blocks, one head, learned positions counted from the newest item, no L2
    term, and dropout, whose rate is tuned. As in its code: inputs scaled by sqrt(d), and a last
    normalisation.

    Raises:
      InputError: no user has train items of two different times.
    """
    _check_times(dataset)
    train = dataset.train
    length = min(LENGTH, int(train.counts.max()) - 1)
    network = Network(dataset.num_items, length, width)
    rows = pack(train.counts, length)
    flat = lambda states: states.reshape(-1, width)

    def init(key: jax.Array):
        first = jax.tree.map(lambda x: x[:1], rows)
        return network.init(key, first.user, first)

    def prepare(data, key):
        return {**data, "histories": at_random_ends(key, data["histories"], length + 1)}

    def loss(params, data, batch: SequenceBatch, key):
        table = params["params"]["items"]
        before, after = (items_at(data["histories"], batch.rows, back) for back in (1, 0))
        rate, streams = data["weights"]["dropout"], {"dropout": key}
        # XLA multiplies two matrices much faster than a stack of them.
        states = flat(network.apply(params, before, batch.rows, rate, rngs=streams))
        reached = jnp.sum(states * table[after.ravel()], axis=1)
        lost = jax.nn.logsumexp(states @ table[batch.pool].T, axis=1) - reached
        # All rows of a mini-batch may be of users with one item.
        steps = before.ravel() != EMPTY
        return jnp.sum(lost, where=steps) / jnp.maximum(jnp.sum(steps), 1).astype(jnp.float32)

    def embeddings(params, data):
        def of_row(row):
            row = Rows(*(x[None] for x in row))
            return network.apply(params, items_at(data["histories"], row), row)[0]

        states = flat(jax.lax.map(of_row, data["rows"], batch_size=ROWS_AT_ONCE))
        return states[data["last"]], params["params"]["items"]

    return CentralizedModel(
        data={"histories": histories_of(train), "rows": rows, "last": last_places(rows)},
        weights={"dropout": 0.5},
        grid=("dropout", (0.2, 0.5, 0.8)),
        init=init,
        prepare=prepare,
        loss=loss,
        embeddings=embeddings,
        batches=functools.partial(_batches, rows),
        limits={"dropout": 1.0},
    )


def _check_times(dataset: Dataset) -> None:
    train = dataset.train
    same_user = train.users[1:] == train.users[:-1]
    if not (same_user & (train.time[1:] != train.time[:-1])).any():
        raise InputError(
            f"--model=sasrec: needs the order of items; no user of {dataset.name} has train items "
            "of two different times"
        )


def _batches(rows: Rows, train: Interactions, pool_name: str, batch_size: int) -> Batches:
    """Every row once. `batch_size` is the maximum number of places."""

    def draw(key, arrays: SequenceBatch, chosen: jax.Array) -> SequenceBatch:
        return arrays._replace(rows=Rows(*(x[chosen] for x in arrays.rows)))

    count, length = rows.user.shape
    arrays = SequenceBatch(rows, negative_pool(train, pool_name).item)
    return Batches(count, max(1, batch_size // length), arrays, draw)
