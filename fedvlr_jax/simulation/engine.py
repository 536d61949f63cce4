"""The protocol of an engine: it holds the clients' private rows, and runs rounds and rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fedvlr_jax.evaluation.ranking import Ranks
from fedvlr_jax.simulation.evaluation import Evaluation
from fedvlr_jax.simulation.state import State
from fedvlr_jax.types import PyTree, RoundMetrics


class Engine(Protocol):
    """The part of a simulation that holds the private rows. See `Simulation` for the rest.

    Both engines compute the same bits.
    """

    @property
    def evaluation(self) -> Evaluation:
        """The held-out lists, cut as this engine ranks the clients."""
        ...

    @property
    def state_bytes(self) -> int:
        """Bytes of a state."""
        ...

    def init(self, seed: int | None) -> State:
        """The state before the first round; `seed` defaults to the config's."""
        ...

    def run_rounds(self, state: State, num_rounds: int) -> tuple[State, RoundMetrics]:
        """As `Simulation.run_rounds`."""
        ...

    def rank(self, state: State, split: str) -> list[tuple[Ranks, np.ndarray]]:
        """Of each bucket, (Ranks, router weights) as `Evaluation.joined` takes them."""
        ...

    def recommend(self, state: State, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each bucket, (scores, items) [at least n_b, k], best first."""
        ...

    def pack(self, state: State, with_rows: bool) -> PyTree:
        """The packed state, see `packing.py`; without item rows if not `with_rows`."""
        ...

    def packed_shapes(self, leaves: Mapping[str, Sequence[Any]], name: str) -> PyTree:
        """As `packing.packed_shapes`, in the form that `unpack` takes."""
        ...

    def unpack(self, packed: PyTree) -> State:
        """The state that was packed, by this engine or by another."""
        ...
