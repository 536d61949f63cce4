"""A whole run: blocks of rounds, validation between them, the best state at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fedvlr_jax.evaluation.metrics import averages
from fedvlr_jax.simulation import Simulation, State

SELECTION_METRIC = "ndcg@50"


class RunState(NamedTuple):
    """How far a run has come; everything but `state` is plain JSON.

    Attributes:
      evaluations: one entry an evaluation: "round" (rounds finished), "loss" (mean over
        the block of rounds before it), "participants", "clipped" (likewise), "valid"
        (averages in percent, with "warm" and "cold"), "best_round" (as below, by then).
      best_round: the round with the highest validation NDCG@50 so far, the earliest such.
      stopped: why the run is over: "rounds", "patience" or, while it goes on, "".
    """

    state: State
    best_state: State
    best_round: int
    evaluations: tuple[dict[str, Any], ...]
    stopped: str


class Timing(NamedTuple):
    """Seconds. The first block holds the compilation."""

    first_block_s: float
    round_s_median: float
    eval_s_median: float
    total_s: float


def copy_state(state: State) -> State:
    """A state that survives the donation of `state` to the next rounds."""
    return jax.tree.map(lambda leaf: leaf.copy(), state)


def start(simulation: Simulation) -> RunState:
    """The beginning of a run."""
    state = simulation.init()
    return RunState(state, copy_state(state), 0, (), "")


def _advance(simulation: Simulation, run: RunState, num_rounds: int) -> tuple[RunState, tuple]:
    """One block of rounds and the evaluation behind it; also their seconds."""
    options = simulation.config.evaluation
    began = time.perf_counter()
    state, rounds = simulation.run_rounds(run.state, num_rounds)
    trained = time.perf_counter()
    ranks = simulation.evaluate(state, "valid")
    valid = averages(ranks.ahead, ranks.tied, simulation.dataset, "valid", options.cutoffs)
    seconds = trained - began, time.perf_counter() - trained

    finished = int(state.server.round)
    entry: dict[str, Any] = {
        "round": finished,
        "loss": float(np.mean(rounds.loss, dtype=np.float64)),
        "participants": float(np.mean(rounds.participants)),
        "clipped": float(np.mean(rounds.clipped, dtype=np.float64)),
        "valid": valid,
    }
    reached = {e["round"]: e["valid"].get(SELECTION_METRIC, 0.0) for e in run.evaluations}
    better = valid.get(SELECTION_METRIC, 0.0) > reached.get(run.best_round, -1.0)
    best_round = finished if better else run.best_round
    entry["best_round"] = best_round
    evaluations = (*run.evaluations, entry)
    since_best = sum(e["round"] > best_round for e in evaluations)
    stopped = ""
    if options.patience and since_best >= options.patience:
        stopped = "patience"
    elif finished >= simulation.config.federation.rounds:
        stopped = "rounds"
    best_state = copy_state(state) if better else run.best_state
    return RunState(state, best_state, best_round, evaluations, stopped), seconds


def train(
    simulation: Simulation,
    run: RunState | None = None,
    on_evaluation: Callable[[RunState, float], None] = lambda run, rounds_per_s: None,
) -> tuple[RunState, Timing]:
    """Trains until the rounds are done or patience ends; selects on validation NDCG@50.

    Args:
      run: where to go on from; its state is used up. By default a new run.
      on_evaluation: called after every evaluation, with the rounds per second of the
        block (evaluation left out).

    Raises:
      NonFiniteError: with the last good state; see `Simulation.run_rounds`.
    """
    began = time.perf_counter()
    run = start(simulation) if run is None else run
    every, last = simulation.config.evaluation.eval_every, simulation.config.federation.rounds
    blocks: list[tuple[int, float, float]] = []
    while not run.stopped:
        done = int(run.state.server.round)
        # Blocks end at multiples of eval_every, wherever a run was interrupted.
        num_rounds = min(every - done % every, last - done)
        run, (train_s, eval_s) = _advance(simulation, run, num_rounds)
        blocks.append((num_rounds, train_s, eval_s))
        on_evaluation(run, num_rounds / max(train_s, 1e-9))
    timing = Timing(0.0, 0.0, 0.0, time.perf_counter() - began)
    if blocks:
        # The first block of each length compiles; a run of one block knows no better.
        later = blocks[1:] or blocks
        timing = timing._replace(
            first_block_s=blocks[0][1],
            round_s_median=float(np.median([t / n for n, t, _ in later])),
            eval_s_median=float(np.median([e for _, _, e in later])),
        )
    return run, timing
