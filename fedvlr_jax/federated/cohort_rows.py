"""Gathers the rows of the sampled clients from the arrays of all clients, and scatters them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.types import Histories, PyTree, Rates


class Population(NamedTuple):
    """The inputs of a round that no round changes, of all clients or of the sampled ones.

    Attributes:
      histories: of each bucket, [padded n_b, ...]; a padding row has count 0.
      features: {modality: [I, d_m]}.
    """

    histories: tuple[Histories, ...]
    features: Mapping[str, jax.Array]
    rates: Rates


def gather_rows(tree: PyTree, rows: jax.Array) -> PyTree:
    """The rows int32 [K] of leaves [n, ...]; a row beyond n gives the last one, as padding."""
    return jax.tree.map(lambda leaf: leaf.at[rows].get(mode="clip"), tree)


def gather_sampled(
    histories: Sequence[Histories], rows: Sequence[jax.Array], ok: jax.Array
) -> tuple[tuple[Histories, ...], tuple[jax.Array, ...]]:
    """(histories, sampled bool [K]) of the rows int32 [K] of each bucket.

    A padding row is not sampled and has count 0. If not `ok` (bool []), no row is sampled.
    """
    sampled = tuple(
        (row < history.count.shape[0]) & ok for history, row in zip(histories, rows, strict=True)
    )
    chosen = (gather_rows(history, row) for history, row in zip(histories, rows, strict=True))
    counted = tuple(
        dataclasses.replace(history, count=jnp.where(real, history.count, 0))
        for history, real in zip(chosen, sampled, strict=True)
    )
    return counted, sampled


def scatter_rows(
    before: Sequence[PyTree], after: Sequence[PyTree], rows: Sequence[jax.Array]
) -> tuple[PyTree, ...]:
    """The private rows of each bucket [n, ...] with `after` [K, ...] at `rows`; drops padding."""
    return tuple(
        jax.tree.map(lambda old, new, row=row: old.at[row].set(new, mode="drop"), whole, part)
        for whole, part, row in zip(before, after, rows, strict=True)
    )
