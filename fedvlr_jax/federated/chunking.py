"""Trains and writes the rows of a limited number of clients at a time."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedvlr_jax import trees
from fedvlr_jax.federated.devices import map_devices
from fedvlr_jax.federated.local import Broadcast, LocalInput
from fedvlr_jax.federated.plans import PLANS
from fedvlr_jax.federated.separate_compilation import compiled_alone
from fedvlr_jax.federated.trained import TrainCohort, Trained, join_chunks
from fedvlr_jax.types import PyTree
from fedvlr_jax.uplink import Upload


def even_chunks(num_clients: int, at_once: int) -> tuple[int, int]:
    """(number of chunks, clients in each), with the least padding.

    Prefers a slightly smaller chunk that divides evenly, because padding would copy the rows.
    """
    count = -(-num_clients // at_once)
    for more in range(count, 2 * count):
        if num_clients % more == 0:
            return more, num_clients // more
    return count, -(-num_clients // count)


def zero_sum(broadcast: Broadcast, sum_type: type | None) -> Upload:
    """The sum of no uploads; `sum_type` as of `Reduce`."""
    zeros = lambda leaf: jnp.zeros(leaf.shape, sum_type or leaf.dtype)
    return jax.tree.map(zeros, Upload(broadcast.views, broadcast.head))


def map_chunks(train: TrainCohort, chunk: int, sum_type: type | None = None) -> TrainCohort:
    """`train` on at most `chunk` clients at a time; adds up the sums of uploads."""

    def chunked(broadcast: Broadcast, clients: LocalInput, key: jax.Array) -> Trained:
        num_clients = clients.alpha.shape[0]
        if num_clients <= chunk:
            return train(broadcast, clients, key)
        num_chunks, size = even_chunks(num_clients, chunk)
        # Padding rows are absent clients.
        missing = num_chunks * size - num_clients

        def split(leaf: jax.Array) -> jax.Array:
            if missing:
                leaf = jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))
            return leaf.reshape(num_chunks, size, *leaf.shape[1:])

        def step(total: Upload, chunk_clients: LocalInput) -> tuple[Upload, Trained]:
            result = train(broadcast, chunk_clients, key)
            if isinstance(result.upload, Upload):
                total = jax.tree.map(jnp.add, total, result.upload)
                result = result._replace(upload=())
            return total, result

        zeros = zero_sum(broadcast, sum_type)
        total, results = jax.lax.scan(step, zeros, jax.tree.map(split, clients))
        return join_chunks(results, num_clients, total)

    return chunked


def make_write_back(plan: str, chunk: int, mesh: Mesh | None) -> Callable[..., PyTree]:
    """(broadcast, `Trained.private`, rows before, keep bool [K]) -> the rows after a round.

    The rows of `keep` are new, all others unchanged to the bit. It writes at most `chunk` clients
    at a time, in place if their rows are donated.
    """
    write_back = PLANS[plan].write_back
    if write_back is None:
        return lambda broadcast, trained, rows, keep: trees.select(keep, trained, rows)

    def in_place(broadcast: Broadcast, _: tuple[()], clients: PyTree) -> PyTree:
        moved, rows, keep = clients
        num_clients = keep.shape[0]
        num_chunks, size = even_chunks(num_clients, chunk)

        def step(number: jax.Array, rows: PyTree) -> PyTree:
            # The last chunk may overlap the previous one, which is already written.
            start = jnp.minimum(number * size, num_clients - size)
            take = lambda tree: jax.tree.map(
                lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), tree
            )
            before = take(rows)
            after = compiled_alone(broadcast.round >= 0, write_back, broadcast, take(moved), before)
            new = start + jnp.arange(size) >= number * size
            after = trees.select(take(keep) & new, after, before)
            put = jax.lax.dynamic_update_slice_in_dim
            return jax.tree.map(lambda leaf, part: put(leaf, part, start, 0), rows, after)

        return jax.lax.fori_loop(0, num_chunks, step, rows)

    run = map_devices(in_place, mesh)
    return lambda broadcast, moved, rows, keep: run(broadcast, (), (moved, rows, keep))
