"""A whole run: blocks of rounds, validation between them, the best state at the end.

A block is trained in pieces of about a second, or of one round where that takes longer, so
that a run can be interrupted, and saved, between two evaluations. A run gives the same evaluations,
selection and patience whether it is started once or resumed any number of times.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import jax
import numpy as np

from fedvlr_jax.evaluation.metrics import averages
from fedvlr_jax.evaluation.ranking import Ranks
from fedvlr_jax.federated.devices import agreed
from fedvlr_jax.simulation import Simulation, State, remaking
from fedvlr_jax.simulation.simulation import check_type
from fedvlr_jax.training.run_state import RunState, copy_state, new_run
from fedvlr_jax.training.schedule import block_length, is_scheduled, taken_up, why_stopped
from fedvlr_jax.training.timing import Clock, Timing
from fedvlr_jax.types import RoundMetrics

PIECE_S = 1.0

# The entries of an evaluation about the clients in the rounds before it.
OF_ROUNDS = ("loss", "participants", "clipped")


def _over_rounds(rounds: RoundMetrics | None) -> dict[str, float | None]:
    """The entries OF_ROUNDS of an evaluation."""
    if rounds is None:
        return dict.fromkeys(OF_ROUNDS)
    participants = rounds.participants
    over_clients = lambda values: (
        float(np.average(values.astype(np.float64), weights=participants))
        if participants.any()
        else None
    )
    return {
        "loss": over_clients(rounds.loss),
        "participants": float(np.mean(participants)),
        "clipped": over_clients(rounds.clipped),
    }


def record(
    run: RunState,
    simulation: Simulation,
    finished: int,
    rounds: RoundMetrics | None,
    ranks: Ranks,
    state: Callable[[], State],
) -> RunState:
    """`run` with one more evaluation; the caller updates its `state`.

    Args:
      finished: rounds finished so far.
      rounds: the metrics of the rounds since the last evaluation, [num_rounds]; None for none.
      ranks: of the validation split.
      state: returns a copy of the current state; called only if it is the best so far.
    """
    config = simulation.config
    cutoffs = config.evaluation.cutoffs
    valid = averages(ranks.ahead, ranks.tied, simulation.dataset, "valid", cutoffs)
    selection = simulation.selection
    value = selection.value(valid)
    reached = {entry["round"]: selection.value(entry["valid"]) for entry in run.evaluations}
    highest = reached.get(run.best_round)
    better = value is None or highest is None or value > highest
    best_round = finished if better else run.best_round
    entry = {
        "round": finished,
        # These numbers carry no noise, so a private run does not report them.
        **_over_rounds(rounds if config.privacy.privacy == "none" else None),
        "valid": valid,
        "best_round": best_round,
    }
    evaluations = (*run.evaluations, entry)
    return run._replace(
        best_state=state() if better else run.best_state,
        best_before=run.before if better else run.best_before,
        best_round=best_round,
        evaluations=evaluations,
        since=None,
        stopped=why_stopped(config, evaluations),
    )


def _joined(first: RoundMetrics | None, then: RoundMetrics) -> RoundMetrics:
    return then if first is None else jax.tree.map(lambda *x: np.concatenate(x), first, then)


def train(
    simulation: Simulation,
    run: RunState | None = None,
    on_evaluation: Callable[[RunState, float], None] = lambda run, rounds_per_s: None,
    on_rounds: Callable[[RunState], None] = lambda run: None,
    leave: Callable[[], bool] = lambda: False,
    before_rounds: Callable[[int], None] = lambda until: None,
) -> tuple[RunState, Timing]:
    """Trains until --rounds or --patience ends the run; selects on validation by --select.

    Args:
      simulation: of `make_simulation`.
      run: the run to continue, also with more rounds or patience than it ended with; its
        states are donated. By default a new run.
      on_evaluation: called after every evaluation, with the rounds per second of the
        block (without the evaluation; 0 for that of round 0).
      on_rounds: called after every piece of a block, and after its evaluation.
      leave: called before every piece; once it returns True, the run is returned as it is,
        with `stopped` empty.
      before_rounds: called before every piece of a block, with the number of rounds finished
        after it.

    Returns:
      The run, with its last and its best state, and the seconds that it took.

    Raises:
      NonFiniteError: with the last good state; see `Simulation.run_rounds`.
      InputError: as `taken_up`; or an argument of another type.
    """
    check_type("simulation", simulation, Simulation)
    if run is not None:
        check_type("run", run, RunState)
    clock, config = Clock(), simulation.config
    run = new_run(simulation) if run is None else taken_up(config, run)

    def evaluated(run: RunState) -> RunState:
        ranks = simulation.evaluate(run.state, "valid")
        if is_scheduled(config, run.round):
            copy = functools.partial(copy_state, run.state)
            return record(run, simulation, run.round, run.since, ranks, copy)
        # Training never continues from this evaluation, so it needs no copy of the state.
        ended = record(run, simulation, run.round, run.since, ranks, lambda: run.state)
        return ended._replace(before_end=run)

    if not run.evaluations and not run.round:
        # An initialization in closed form may be the best state of the run.
        run = evaluated(run)
        on_evaluation(run, clock.rounds_per_s)
    block_rounds, block_s = 0, 0.0
    # The first call compiles, so the time of a round is not known yet.
    round_s = PIECE_S
    while not run.stopped and not leave():
        ahead = block_length(config, run.round)
        # Devices of several processes must be given the same work.
        num_rounds = min(ahead, agreed(max(1, int(PIECE_S / max(round_s, 1e-9)))))
        if num_rounds:
            before_rounds(run.round + num_rounds)
            began = time.perf_counter()
            state, rounds, before = remaking.run_rounds(simulation, run.state, num_rounds)
            spent = time.perf_counter() - began
            run = run._replace(state=state, since=_joined(run.since, rounds), before=before)
            round_s = spent / num_rounds
            block_rounds, block_s = block_rounds + num_rounds, block_s + spent
        if num_rounds == ahead and run.since is not None:
            began = time.perf_counter()
            run = evaluated(run)
            clock.block(block_rounds, block_s, time.perf_counter() - began)
            on_evaluation(run, clock.rounds_per_s)
            block_rounds, block_s = 0, 0.0
        on_rounds(run)
    return run, clock.read()
