"""A checkpoint holds the input of private rows in place of the rows, where it is smaller.

Numbers that training has not moved are drawn again: see `drawn.py`.

A backbone with item_rows="tuned" restarts a client's rows in every round that trains the client. If
the last round trained every client, the rows follow from the state before that round without its
rows, which is small: the server's state, heads and routers. Loading runs that round again.
"""

from __future__ import annotations

import jax
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.devices import put, replicated_sharding
from fedvlr_jax.federated.store import in_parts
from fedvlr_jax.simulation import drawn
from fedvlr_jax.simulation.packing import ROWS
from fedvlr_jax.simulation.simulation import Simulation
from fedvlr_jax.simulation.state import State
from fedvlr_jax.types import PyTree, RoundMetrics

# The place of the state before the last round, in a packed state.
BEFORE = "before"
# Rows that another machine makes may differ in their last bits.
RELATIVE, ABSOLUTE = 1e-2, 1e-4


def makes_rows_again(simulation: Simulation) -> bool:
    """Whether every round restarts the item rows of all clients that respond, samples all, and
    counts all that respond: the metrics leave hostile clients out."""
    model = simulation.model
    if model.backbone.item_rows != "tuned" or model.keeps_residual:
        return False
    return not simulation.sampling.samples and simulation.hostile is None


def run_rounds(
    simulation: Simulation, state: State, num_rounds: int
) -> tuple[State, RoundMetrics, PyTree]:
    """`Simulation.run_rounds`, and the input from which the item rows of the new state follow.

    Returns:
      The state and the metrics, with the same bits; and the packed state before the last round
      without item rows, in memory of its own. None if the rows do not follow from it.
    """
    if not makes_rows_again(simulation):
        return *simulation.run_rounds(state, num_rounds), None
    earlier = None
    if num_rounds > 1:
        state, earlier = simulation.run_rounds(state, num_rounds - 1)
    before = on_host(simulation.pack(state, with_rows=False))
    state, last = simulation.run_rounds(state, 1)
    metrics = last
    if earlier is not None:
        metrics = jax.tree.map(lambda *x: np.concatenate(x), earlier, last)
    everyone = last.participants[-1] == simulation.population.num_users
    return state, metrics, before if everyone else None


def on_host(packed: PyTree) -> PyTree:
    """A copy that survives the donation of `packed`."""
    copied = lambda leaf: leaf.copy() if trees.is_key(leaf) else np.array(leaf[...])
    return jax.tree.map(copied, packed)


def pack(simulation: Simulation, state: State, before: PyTree) -> PyTree:
    """The packed state, without rows and numbers that can be made again.

    Args:
      before: of the state, as `run_rounds` returns it.
    """
    if before is not None:
        return {**_to_check(simulation.pack(state, with_rows=False)), BEFORE: before}
    # Before the first round the item rows are zeros.
    untrained = int(jax.device_get(state.server.round)) == 0
    return drawn.leave_out(simulation.initial, simulation.pack(state, with_rows=not untrained))


def _to_check(packed: PyTree) -> PyTree:
    """`packed` with the private leaves that a load compares: the small ones, one at least."""
    leaves = trees.named_leaves(packed["private"])
    least = min((leaf.nbytes for leaf in leaves.values()), default=0)
    most = max(least, drawn.LEAST_BYTES)
    names = {name for name, leaf in leaves.items() if leaf.nbytes <= most}
    return {**packed, "private": trees.kept(packed["private"], names)}


def unpack(simulation: Simulation, packed: PyTree) -> State:
    """The state that `pack` packed; the parts that it left out are computed again.

    Raises:
      InputError: the round that makes the rows gives other heads or routers here, or other
        numbers are drawn here.
    """
    before, packed = packed.get(BEFORE), {k: v for k, v in packed.items() if k != BEFORE}
    if before is None:
        packed = drawn.put_back(simulation.initial, packed)
        return simulation.unpack(_with_zero_rows(simulation, packed))
    state, _ = simulation.run_rounds(simulation.unpack(_with_zero_rows(simulation, before)), 1)
    _check_same(packed["private"], simulation.pack(state, with_rows=False)["private"])
    return state._replace(server=put(packed["server"], replicated_sharding(simulation.setup.mesh)))


def _with_zero_rows(simulation: Simulation, packed: PyTree) -> PyTree:
    """`packed` with item rows of zeros, which take no memory, if it has none."""
    shapes, private = simulation.initial.client_shapes, packed["private"]
    if ROWS not in shapes or ROWS in private:
        return packed
    shape = (len(packed["clients"]), *shapes[ROWS].shape)
    rows = np.broadcast_to(np.zeros((), shapes[ROWS].dtype), shape)
    return {**packed, "private": {**private, ROWS: rows}}


def _check_same(saved: PyTree, made: PyTree) -> None:
    made_leaves = trees.named_leaves(made)
    for name, one in trees.named_leaves(saved).items():
        other = made_leaves[name]
        for part in in_parts(np.arange(other.shape[0])):
            if not np.allclose(one[part], other[part], rtol=RELATIVE, atol=ABSOLUTE):
                raise InputError(
                    f"the item rows of the checkpoint cannot be made again: its last round gives "
                    f"another {name} here; use the version and the machine that saved it"
                )


def saved_bytes(simulation: Simulation) -> tuple[int, int]:
    """Bytes of the server's and of the clients' part of one state in a checkpoint, at most."""
    rows = dict(simulation.initial.client_shapes)
    server = trees.num_bytes(simulation.initial.server_shapes)
    copies = 1
    if makes_rows_again(simulation) and not simulation.config.federation.client_dropout:
        rows.pop(ROWS)
        copies = 2
    return copies * server, copies * trees.num_bytes(rows) * simulation.population.num_users
