"""The slices of the server steps of `buffered.py`: which clients each has, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.devices import padded
from fedvlr_jax.federated.participation import bucket_capacities


def slice_capacities(config: Config, bucket_sizes: list[int]) -> list[int]:
    """The number of clients of each bucket in one slice, a multiple of GROUPS.

    If the clients of a step have one version, one slice has them all: without staleness, or if at
    most as many clients train at a time as a step takes. Otherwise a step has clients of about
    cohort / buffer versions, and a slice is smaller by this factor.
    """
    buffer, cohort = config.fleet.buffer, config.federation.cohort
    versions = max(1, cohort // buffer) if config.fleet.max_staleness else 1
    return [padded(size) for size in bucket_capacities(bucket_sizes, -(-buffer // versions))]


class Slice(NamedTuple):
    """Clients of one server step that trained on one version.

    Attributes:
      staleness: in server steps. rows: of each bucket, int64 [at most its capacity].
    """

    staleness: int
    rows: list[np.ndarray]


def slices_of(
    rows: Sequence[np.ndarray], staleness: Sequence[np.ndarray], capacities: Sequence[int]
) -> list[Slice]:
    """The slices of one step, by ascending staleness; the first has staleness 0.

    Args:
      rows, staleness: one array per bucket, with an entry for each of its clients in the step.
    """
    slices = []
    found = {0}.union(*(set(values.tolist()) for values in staleness))
    for value in sorted(found):
        chosen = [r[s == value] for r, s in zip(rows, staleness, strict=True)]
        needed = max(-(-len(r) // size) for r, size in zip(chosen, capacities, strict=True))
        for number in range(max(1, needed)):
            cut = lambda r, size, n=number: r[n * size : (n + 1) * size]
            own = [cut(r, size) for r, size in zip(chosen, capacities, strict=True)]
            slices.append(Slice(value, own))
    return slices


def pack_schedule(
    steps: Sequence[list[Slice]],
    capacities: Sequence[int],
    bucket_rows: Sequence[int],
    places: int,
) -> tuple[np.ndarray, ...]:
    """The schedule of several steps, in the form that the compiled step reads.

    Args:
      steps: one result of `slices_of` per step.
      bucket_rows: for each bucket, the row number of padding.
      places: at least the number of steps.

    Returns:
      For each bucket int32 [places, J * capacity], slice after slice; and the staleness of the
      slices, int32 [places, J]. J is a power of 2, which limits the number of compiled programs.
    """
    most = max(len(slices) for slices in steps)
    count = 1 << (most - 1).bit_length()
    packed = [
        np.full((places, count, size), padding, np.int32)
        for size, padding in zip(capacities, bucket_rows, strict=True)
    ]
    staleness = np.zeros((places, count), np.int32)
    for step, slices in enumerate(steps):
        for number, one in enumerate(slices):
            staleness[step, number] = one.staleness
            for table, rows in zip(packed, one.rows, strict=True):
                table[step, number, : len(rows)] = rows
    return (*(table.reshape(places, -1) for table in packed), staleness)


def check_staleness(staleness: np.ndarray, most: int) -> None:
    """Raises InputError for an upload of a version that the server does not keep."""
    if len(staleness) and not 0 <= staleness.min() <= staleness.max() <= most:
        worst = staleness[np.argmax(np.abs(staleness - most / 2))]
        raise InputError(
            f"participation: an upload has staleness {worst}; in this round the server has the "
            f"versions of staleness 0 to {most} (--max_staleness)"
        )
