"""Many runs in one compiled program: different seeds and rates, everything else the same.

On an accelerator, members are trained side by side by vmap, as many at once as memory allows. One
member already fills a CPU, so there they are trained one after the other inside the program.
A member has the numbers of its own run: to the bit one after the other; side by side, up to the
order in which the device sums.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.settings import under_own_settings
from fedvlr_jax.simulation import Simulation, State
from fedvlr_jax.training.loop import record
from fedvlr_jax.training.run_state import RunState
from fedvlr_jax.training.schedule import block_length
from fedvlr_jax.training.timing import Clock, Timing
from fedvlr_jax.types import PyTree, Rates, RoundMetrics

NOT_FINITE = "a non-finite number"
# The `stopped` of a member that its caller ended.
ENDED = "ended"


# States that a member takes: before a block, after it, and the best one.
STATES_OF_A_MEMBER = 3


def members_in_memory(simulation: Simulation, left_bytes: float) -> int:
    """How many members one call of `train_members` may have.

    Args:
      left_bytes: the budget, without the bytes of the run of one member.
    """
    others = left_bytes // (STATES_OF_A_MEMBER * simulation.state_bytes)
    return 1 + int(max(0, others))


def members_at_once(simulation: Simulation, num_members: int, left_bytes: float) -> int:
    """How many members are trained side by side: 1 on a CPU, else as many as memory allows.

    Args:
      left_bytes: as for `members_in_memory`.
    """
    if jax.default_backend() == "cpu":
        return 1
    state = simulation.state_bytes
    left = left_bytes - STATES_OF_A_MEMBER * state * (num_members - 1)
    # The state, and the gradients and moments of one round.
    return int(max(1, min(num_members, 1 + left // (4 * state))))


def _map(function: Callable[..., Any], at_once: int) -> Callable[..., Any]:
    """`function` over the leading axis of its arguments, `at_once` of them side by side."""
    if at_once == 1:
        return lambda *arguments: jax.lax.map(lambda a: function(*a), arguments)
    return lambda *arguments: jax.lax.map(lambda a: function(*a), arguments, batch_size=at_once)


class Programs:
    """The compiled functions of all members of a simulation; their states are stacked, [M, ...].

    Args:
      at_once: members that are trained side by side.
    """

    def __init__(self, simulation: Simulation, at_once: int = 1) -> None:
        self.simulation, self.at_once = simulation, at_once
        self._advance: dict[int, Callable[..., Any]] = {}
        self._others: dict[int, Programs] = {}

    def side_by_side(self, at_once: int) -> Programs:
        """The programs of the same simulation for another number of members side by side."""
        if at_once == self.at_once:
            return self
        if at_once not in self._others:
            self._others[at_once] = Programs(self.simulation, at_once)
        return self._others[at_once]

    @functools.cached_property
    def evaluate(self) -> Callable[..., Any]:
        """The validation ranks and router weights of all members, by bucket."""
        engine, features = self.simulation.on_device, self.simulation.features
        histories, lists = engine.histories, engine.targets["valid"]
        evaluate = lambda state: engine.evaluate_function(state, histories, features, *lists)
        return self.simulation.setup.compiled(_map(evaluate, self.at_once))

    def advance(
        self, states: State, rates: Rates, num_rounds: int, schedule: PyTree, active: jax.Array
    ) -> tuple[State, RoundMetrics]:
        """The states after some rounds of the `active` members (bool [M]), and the metrics of the
        rounds [M, num_rounds]. It donates `states`. `rates`: float32 [M]."""
        if num_rounds not in self._advance:
            self._advance[num_rounds] = self._compile(num_rounds)
        return self._advance[num_rounds](states, rates, schedule, active)

    def _compile(self, num_rounds: int) -> Callable[..., Any]:
        engine = self.simulation.on_device

        def advance(state, rates, schedule, active):
            population = engine.population_with(rates)
            run = lambda s: engine.run_function(s, population, schedule, num_rounds, num_rounds)
            # A member that has stopped costs nothing more (side by side: nothing less).
            skipped = lambda s: (s, jax.tree.map(_zeros, jax.eval_shape(run, s)[1]))
            return jax.lax.cond(active, run, skipped, state)

        return self.simulation.setup.compiled(_map(advance, self.at_once), donate_argnums=0)


def _evaluated(
    simulation: Simulation,
    programs: Programs,
    runs: Sequence[RunState],
    states: State,
    finished: int,
    metrics: RoundMetrics | None,
) -> list[RunState]:
    """The runs after an evaluation of those that have not stopped.

    Args:
      finished: rounds finished by now.
      metrics: NumPy [M, num_rounds], of the rounds since the last evaluation; None for none.
    """
    after = []
    results = jax.device_get(programs.evaluate(states))
    for number, run in enumerate(runs):
        rounds = trees.rows(metrics, number)
        ranks, _ = simulation.engine.evaluation.joined("valid", trees.rows(results, number))
        if run.stopped:
            after.append(run)
        elif ranks.finite.all() and (rounds is None or rounds.finite.all()):
            copy = functools.partial(_on_host, states, number)
            after.append(record(run, simulation, finished, rounds, ranks, copy))
        else:
            after.append(run._replace(stopped=NOT_FINITE))
    return after


class Hooks(NamedTuple):
    """The calls that `train_members` makes.

    Attributes:
      on_evaluation: after every evaluation, with the rounds per second.
      ends: after every evaluation and `on_evaluation`; the numbers of the members that end there.
        Their `stopped` is ENDED.
      leave: before every block of rounds; once it returns True, the members are returned as they
        are, `stopped` empty where they have not ended.
      before_rounds: before every block, with the round that ends it, and whether each member
        trains.
    """

    on_evaluation: Callable[[list[RunState], float], None] = lambda runs, rounds_per_s: None
    ends: Callable[[list[RunState]], Collection[int]] = lambda runs: ()
    leave: Callable[[], bool] = lambda: False
    before_rounds: Callable[[int, Sequence[bool]], None] = lambda until, active: None


WITHOUT_HOOKS = Hooks()


@under_own_settings
def train_members(
    programs: Programs,
    seeds: Sequence[int],
    rates: Sequence[Rates],
    *,
    runs: Sequence[RunState] | None = None,
    hooks: Hooks = WITHOUT_HOOKS,
) -> tuple[list[RunState], Timing]:
    """Trains one member for each (seed, rates), with its own early stopping.

    A member that meets a non-finite number stops there, and its `stopped` says so; the others
    continue.

    Args:
      programs: of their simulation; an earlier call may have used them.
      runs: the runs that the members continue, all after the same round; by default new runs.

    Returns:
      runs: of each member, as `train` returns it; the states are on the host.
      timing: of all members together; a round is a round of all of them.

    Raises:
      InputError: the private rows are not on the devices.
    """
    clock, simulation = Clock(), programs.simulation
    stacked = jax.tree.map(lambda *x: jnp.asarray(x, jnp.float32), *rates)
    initial = [simulation.init(seed) for seed in seeds] if runs is None else [r.state for r in runs]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *initial)
    del initial
    if runs is None:
        finished = 0
        none = RunState(None, None, 0, (), None, "")  # type: ignore[arg-type]
        runs = _evaluated(simulation, programs, [none] * len(seeds), states, finished, None)
        runs = _reported(runs, clock, hooks)
    else:
        (finished,) = {run.round for run in runs}
    while not all(run.stopped for run in runs) and not hooks.leave():
        num_rounds = block_length(simulation.config, finished)
        schedule = _schedules(simulation, seeds, finished, num_rounds)
        active = [not run.stopped for run in runs]
        hooks.before_rounds(finished + num_rounds, active)
        began = time.perf_counter()
        states, metrics = programs.advance(
            states, stacked, num_rounds, schedule, jnp.asarray(active)
        )
        metrics = jax.device_get(metrics)
        trained = time.perf_counter()
        finished += num_rounds
        runs = _evaluated(simulation, programs, runs, states, finished, metrics)
        clock.block(num_rounds, trained - began, time.perf_counter() - trained)
        runs = _reported(runs, clock, hooks)
    ended = [run._replace(state=_on_host(states, i)) for i, run in enumerate(runs)]
    return ended, clock.read()


def _reported(runs: list[RunState], clock: Clock, hooks: Hooks) -> list[RunState]:
    """Reports an evaluation. Returns the runs; those that `hooks.ends` names are stopped."""
    hooks.on_evaluation(runs, clock.rounds_per_s)
    ended = hooks.ends(runs)
    return [run._replace(stopped=ENDED) if n in ended else run for n, run in enumerate(runs)]


def _on_host(states: State, number: int) -> State:
    return jax.device_get(trees.rows(states, number))


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(leaf.shape, leaf.dtype)


def _schedules(simulation: Simulation, seeds: Sequence[int], first: int, num_rounds: int) -> PyTree:
    """The schedules of the members' rounds, int32 [M, num_rounds, K_b] per bucket, padded to the
    widest member; None where every client is sampled."""
    sampling = simulation.sampling
    schedules = [sampling.schedule(seed, first, num_rounds, num_rounds) for seed in seeds]
    if schedules[0] is None:
        return None

    def join(num_clients: int, *members: np.ndarray) -> jax.Array:
        width = max(rows.shape[1] for rows in members)
        pad = lambda x: np.pad(x, ((0, 0), (0, width - x.shape[1])), constant_values=num_clients)
        return jnp.asarray(np.stack([pad(rows) for rows in members]))

    sizes = [history.count.shape[0] for history in simulation.on_device.histories]
    # With --buffer the last array is the staleness of the slices; slices without clients are 0.
    sizes += [0] * (len(schedules[0]) - len(sizes))
    buckets = zip(*schedules, strict=True)
    return tuple(join(n, *members) for n, members in zip(sizes, buckets, strict=True))
