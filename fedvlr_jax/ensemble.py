"""Many runs in one compiled program: other seeds, other rates, everything else alike.

On an accelerator members are trained side by side by vmap, as many at once as memory
takes; on a CPU, which one member already fills, one after the other inside the program.
A member's numbers are those of its own run: exactly so one after the other; side by side,
up to the order in which the device sums.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.settings import compiled, under_own_settings
from fedvlr_jax.simulation import Simulation, State
from fedvlr_jax.training import Clock, RunState, Timing, block_length, record
from fedvlr_jax.types import PyTree, Rates, RoundMetrics

NOT_FINITE = "a non-finite number"


# Of a member that waits or is trained: its state before a block and after it, and its best one.
STATES_OF_A_MEMBER = 3


def members_in_memory(simulation: Simulation, left_bytes: float) -> int:
    """How many members one call of `train_members` may have.

    Args:
      left_bytes: of the budget, beside what the run of one member takes.
    """
    others = left_bytes // (STATES_OF_A_MEMBER * simulation.state_bytes)
    return 1 + int(max(0, others))


def members_at_once(simulation: Simulation, num_members: int, left_bytes: float) -> int:
    """How many members are trained side by side: 1 on a CPU, else what memory takes.

    Args:
      left_bytes: as for `members_in_memory`.
    """
    if jax.default_backend() == "cpu":
        return 1
    state = simulation.state_bytes
    left = left_bytes - STATES_OF_A_MEMBER * state * (num_members - 1)
    # The state, and the gradients and moments of one round.
    return int(max(1, min(num_members, 1 + left // (4 * state))))


def _map(function: Callable, at_once: int) -> Callable:
    """`function` over the leading axis of its arguments, `at_once` of them side by side."""
    if at_once == 1:
        return lambda *arguments: jax.lax.map(lambda a: function(*a), arguments)
    return lambda *arguments: jax.lax.map(lambda a: function(*a), arguments, batch_size=at_once)


@under_own_settings
def train_members(
    simulation: Simulation,
    seeds: Sequence[int],
    rates: Sequence[Rates],
    *,
    runs: Sequence[RunState] | None = None,
    at_once: int = 1,
    on_evaluation: Callable[[list[RunState], float], None] = lambda runs, rounds_per_s: None,
    leave: Callable[[], bool] = lambda: False,
) -> tuple[list[RunState], Timing]:
    """Trains one member for each (seed, rates), with its own early stopping.

    A member that met a non-finite number stops there, `stopped` saying so; the others go on.

    Args:
      runs: where the members go on from, all after the same round; by default new runs.
      leave: asked before every block of rounds; once it says so, the members are returned as they
        stand, `stopped` empty where they have not ended.

    Returns:
      runs: of each member, as `train` returns it; the states are on the host.
      timing: of all members together; a round is a round of all of them.
    """
    clock = Clock()
    num_members = len(seeds)
    begun = [simulation.init(seed) for seed in seeds] if runs is None else [r.state for r in runs]
    states = _stack(begun)
    del begun
    stacked_rates = jax.tree.map(lambda *x: jnp.asarray(x, jnp.float32), *rates)
    histories, features = simulation.histories, simulation.features
    lists = simulation.targets["valid"]

    def advance(num_rounds: int) -> Callable:
        def one(state, rates, schedule, active):
            run = lambda s: simulation.run_function(
                s, histories, features, rates, schedule, num_rounds, num_rounds
            )
            # A member that has stopped costs nothing more (side by side: nothing less).
            skipped = lambda s: (s, jax.tree.map(_zeros, jax.eval_shape(run, s)[1]))
            return jax.lax.cond(active, run, skipped, state)

        return compiled(_map(one, at_once), donate_argnums=0)

    evaluate_one = lambda state: simulation.evaluate_function(state, histories, features, *lists)
    evaluate = compiled(_map(evaluate_one, at_once))
    programs: dict[int, Callable] = {}

    def member(i: int) -> State:
        return jax.device_get(jax.tree.map(lambda leaf: leaf[i], states))

    def evaluated(runs: list[RunState], metrics: RoundMetrics | None) -> list[RunState]:
        """The runs after an evaluation of those that have not stopped."""
        after = []
        results = jax.device_get(evaluate(states))
        for i, run in enumerate(runs):
            of = lambda tree, i=i: jax.tree.map(lambda leaf: leaf[i], tree)
            rounds, (ranks, _) = of(metrics), simulation.joined("valid", of(results))
            if run.stopped:
                after.append(run)
            elif ranks.finite.all() and (rounds is None or rounds.finite.all()):
                copy = functools.partial(member, i)
                after.append(record(run, simulation, finished, rounds, ranks, copy))
            else:
                after.append(run._replace(stopped=NOT_FINITE))
        return after

    if runs is None:
        finished = 0
        none = RunState(None, None, 0, (), None, "")  # type: ignore[arg-type]
        runs = evaluated([none] * num_members, None)
        on_evaluation(runs, clock.rounds_per_s)
    else:
        (finished,) = {run.round for run in runs}
    while not all(run.stopped for run in runs) and not leave():
        num_rounds = block_length(simulation.config, finished)
        schedules = [simulation.schedule(seed, finished, num_rounds, num_rounds) for seed in seeds]
        schedule = None if schedules[0] is None else _stack_schedules(simulation, schedules)
        active = jnp.asarray([not run.stopped for run in runs])
        began = time.perf_counter()
        if num_rounds not in programs:
            programs[num_rounds] = advance(num_rounds)
        states, metrics = programs[num_rounds](states, stacked_rates, schedule, active)
        metrics = jax.device_get(metrics)
        trained = time.perf_counter()
        finished += num_rounds
        runs = evaluated(list(runs), metrics)
        clock.block(num_rounds, trained - began, time.perf_counter() - trained)
        on_evaluation(runs, clock.rounds_per_s)
    return [run._replace(state=member(i)) for i, run in enumerate(runs)], clock.read()


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(leaf.shape, leaf.dtype)


def _stack(trees: Sequence[State]) -> State:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _stack_schedules(simulation: Simulation, schedules: Sequence[PyTree]) -> PyTree:
    """Schedules of several seeds, padded to the widest of each bucket."""

    def join(num_clients: int, *parts: jax.Array) -> jax.Array:
        width = max(part.shape[1] for part in parts)
        pad = lambda p: np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=num_clients)
        return jnp.asarray(np.stack([pad(part) for part in parts]))

    sizes = [history.count.shape[0] for history in simulation.histories]
    # With --buffer the last array is the staleness of the slices; slices without clients are 0.
    sizes += [0] * (len(schedules[0]) - len(sizes))
    return tuple(join(n, *parts) for n, *parts in zip(sizes, *schedules, strict=True))
