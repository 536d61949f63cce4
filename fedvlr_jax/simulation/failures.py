"""The error of a failed round: it names the round, the client and the array that is not finite."""

from __future__ import annotations

from fedvlr_jax import trees
from fedvlr_jax.config import Config
from fedvlr_jax.config.magnitudes import what_to_lower
from fedvlr_jax.errors import NonFiniteError
from fedvlr_jax.federated.local import ClientNumbers
from fedvlr_jax.federated.round import server_numbers
from fedvlr_jax.simulation.state import State
from fedvlr_jax.types import PyTree, RoundMetrics


def failed_round(
    config: Config, round_number: int, metrics: RoundMetrics, state: State, client_shapes: PyTree
) -> NonFiniteError:
    """The error of a round whose `metrics`, of that one round, are not finite.

    Args:
      state: the state before the round, which the error carries.
      client_shapes: shapes of one client's private rows.
    """
    client = int(metrics.bad_client)
    trained = {name: rows for name, rows in client_shapes.items() if name != "residual"}
    where, numbers = f"client {client}", ClientNumbers(metrics.loss, **trained)
    if client < 0:
        where = "the server's step"
        numbers = server_numbers(state.server.shared, state.server.optimizer)
    leaf = list(trees.named_leaves(numbers))[metrics.bad_leaf]
    return NonFiniteError(
        f"round {round_number}: a non-finite number at {where}, leaf {leaf}; the state before "
        f"that round was kept; {what_to_lower(config)}",
        state,
    )
