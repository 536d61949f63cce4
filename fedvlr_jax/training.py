"""A whole run: blocks of rounds, validation between them, the best state at the end.

A block is trained in pieces of about a second, or of one round where that takes longer, so
that a run can be interrupted, and saved, between two evaluations.

A run gives the same evaluations, selection and patience whether it is started once or resumed any
number of times. An evaluation between two multiples of --eval_every exists only because --rounds
ended there. A run that is resumed with more rounds drops it, with its selection: see
`RunState.before_end`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import averages
from fedvlr_jax.evaluation.ranking import Ranks
from fedvlr_jax.federated.devices import agreed
from fedvlr_jax.simulation import Simulation, State, remaking
from fedvlr_jax.types import PyTree, RoundMetrics

PIECE_S = 1.0
# The entries of an evaluation about the clients in the rounds before it.
OF_ROUNDS = ("loss", "participants", "clipped")


class RunState(NamedTuple):
    """A run between two rounds; everything but the states is plain JSON.

    Attributes:
      evaluations: one entry an evaluation, the first of round 0: "round" (rounds finished),
        "loss" (mean over the participants of the block of rounds before it; None without any),
        "participants" (mean over the rounds), "clipped" (share of the participants),
        "valid" (averages in percent, with "warm" and "cold"), "best_round" (as below, at the
        time). With --privacy the three of OF_ROUNDS are None.
      best_round: the round with the highest validation value of --select so far, the earliest
        one. Without validation targets there is no selection, and it is the newest round.
      since: metrics of the rounds since the last evaluation, [rounds]; None for none.
      stopped: why the run has ended: "rounds" or "patience"; "" while it continues.
      before_end: the run before its last evaluation, if that one is not at a multiple of
        --eval_every; else None. A run that is resumed with more rounds continues from it. It
        shares `state` with this run, and `best_state` is `state` itself if the last evaluation
        selected it: a run holds two states at most.
      before, best_before: what makes the item rows of `state` and `best_state`, as
        `simulation.remaking` returns it; None if a save needs the rows.
    """

    state: State
    best_state: State
    best_round: int
    evaluations: tuple[dict[str, Any], ...]
    since: RoundMetrics | None
    stopped: str
    before_end: RunState | None = None
    before: PyTree = None
    best_before: PyTree = None

    @property
    def round(self) -> int:
        """Rounds finished."""
        return int(jax.device_get(self.state.server.round))


class Timing(NamedTuple):
    """Seconds of one process.

    The medians leave out the first block, which contains the compilation; they are None for a
    process that trains one block only.
    """

    first_block_s: float
    round_s_median: float | None
    eval_s_median: float | None
    total_s: float


def copy_state(state: State) -> State:
    """A state that survives the donation of `state` to the next rounds."""
    return jax.tree.map(lambda leaf: leaf.copy(), state)


def new_run(simulation: Simulation) -> RunState:
    """The beginning of a run, before its first evaluation, which copies the state."""
    # Block here: on CPU, copying a buffer whose allocation failed hangs.
    state = jax.block_until_ready(simulation.init())
    return RunState(state, state, 0, (), None, "")


def _since_best(evaluations: Sequence[dict]) -> list[int]:
    """For each evaluation, the number of evaluations since the best one: 0 for a new best one."""
    waited: list[int] = []
    for entry in evaluations:
        better = entry["best_round"] == entry["round"]
        waited.append(0 if better or not waited else waited[-1] + 1)
    return waited


def why_stopped(config: Config, evaluations: Sequence[dict]) -> str:
    """The `stopped` of a run with these evaluations, as if it was started once."""
    if not evaluations:
        return ""
    newest, patience = evaluations[-1]["round"], config.evaluation.patience
    # A run with more rounds has no evaluation at this end, so it does not stop there.
    if patience and is_scheduled(config, newest) and _since_best(evaluations)[-1] >= patience:
        return "patience"
    return "rounds" if newest >= config.federation.rounds else ""


def is_scheduled(config: Config, round_number: int) -> bool:
    """Whether an evaluation after so many rounds does not depend on --rounds."""
    return round_number % config.evaluation.eval_every == 0


def _was_end(config: Config, evaluations: Sequence[dict]) -> bool:
    """Whether the last evaluation was made only at the end of fewer rounds than --rounds."""
    newest = evaluations[-1]["round"] if evaluations else 0
    return newest < config.federation.rounds and not is_scheduled(config, newest)


def position(config: Config, evaluations: Sequence[dict], finished: int) -> str:
    """The `stopped` of a saved run that is resumed with `config`; "" if it continues.

    Args:
      evaluations: of the run, with the one at its end.
      finished: rounds that the run has trained.

    Raises:
      InputError: a run with these --rounds and --patience ends before `finished`.
    """
    rounds, patience = config.federation.rounds, config.evaluation.patience
    otherwise = "another --workdir, or --overwrite to train it again"
    if finished > rounds:
        raise InputError(
            f"--rounds={rounds}: the run has trained {finished} rounds, and none is undone; give "
            f"--rounds={finished} or more, {otherwise}"
        )
    if _was_end(config, evaluations):
        evaluations = evaluations[:-1]
    waited = zip(evaluations, _since_best(evaluations), strict=True)
    earlier = [(entry["round"], wait) for entry, wait in waited if entry["round"] < finished]
    ended = [number for number, wait in earlier if patience and wait >= patience]
    if ended:
        longest = max(wait for _, wait in earlier)
        raise InputError(
            f"--patience={patience}: ends the run after round {ended[0]}, but it has trained "
            f"{finished} rounds; give 0, --patience={longest + 1} or more, {otherwise}"
        )
    return why_stopped(config, evaluations)


def taken_up(config: Config, run: RunState) -> RunState:
    """`run`, resumed with `config`; an evaluation at an earlier end is dropped.

    Raises:
      InputError: as `position`; or the run was saved by a version that cannot drop the
        evaluation at its end.
    """
    stopped = position(config, run.evaluations, run.round)
    if _was_end(config, run.evaluations):
        if run.before_end is None:
            raise InputError(
                f"--rounds={config.federation.rounds}: the run ended after round {run.round}, no "
                f"multiple of --eval_every={config.evaluation.eval_every}, and was saved by a "
                f"version that cannot continue from there; give --rounds={run.round}, another "
                "--workdir, or --overwrite to train it again"
            )
        run = run.before_end
    return run._replace(stopped=stopped)


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


class Clock:
    """Seconds of the blocks of a run."""

    def __init__(self):
        self._began = time.perf_counter()
        self._blocks: list[tuple[int, float, float]] = []

    def block(self, num_rounds: int, train_s: float, eval_s: float) -> None:
        self._blocks.append((num_rounds, train_s, eval_s))

    @property
    def rounds_per_s(self) -> float:
        """Of the newest block, evaluation left out; 0 before the first."""
        num_rounds, train_s, _ = self._blocks[-1] if self._blocks else (0, 0.0, 0.0)
        return num_rounds / max(train_s, 1e-9)

    def read(self) -> Timing:
        total = time.perf_counter() - self._began
        if not self._blocks:
            return Timing(0.0, None, None, total)
        later = self._blocks[1:]
        median = lambda seconds: float(np.median(seconds)) if seconds else None
        return Timing(
            first_block_s=self._blocks[0][1],
            round_s_median=median([t / max(n, 1) for n, t, _ in later]),
            eval_s_median=median([e for _, _, e in later]),
            total_s=total,
        )


def block_length(config: Config, finished: int) -> int:
    """Rounds until the next evaluation, which is at a multiple of --eval_every or at the end.

    0 if it is due: the run was interrupted within a block, and --rounds now ends there.
    """
    every = config.evaluation.eval_every
    return max(0, min(every - finished % every, config.federation.rounds - finished))


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
      run: the run to continue, also with more rounds or patience than it ended with; its
        states are donated. By default a new run.
      on_evaluation: called after every evaluation, with the rounds per second of the
        block (without the evaluation; 0 for that of round 0).
      on_rounds: called after every piece of a block, and after its evaluation.
      leave: called before every piece; once it returns True, the run is returned as it is,
        with `stopped` empty.
      before_rounds: called before every piece of a block, with the number of rounds finished
        after it.

    Raises:
      NonFiniteError: with the last good state; see `Simulation.run_rounds`.
      InputError: as `taken_up`.
    """
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
