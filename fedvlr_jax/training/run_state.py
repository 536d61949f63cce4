"""The state of a run between two rounds."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from fedvlr_jax.simulation import Simulation, State
from fedvlr_jax.types import PyTree, RoundMetrics


class RunState(NamedTuple):
    """A run between two rounds; everything but the states is plain JSON.

    Attributes:
      state: after the newest round. best_state: after `best_round`.
      evaluations: one entry per evaluation, the first of round 0: "round" (rounds finished),
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
      before, best_before: the input from which the item rows of `state` and `best_state` follow, as
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


def copy_state(state: State) -> State:
    """A state that survives the donation of `state` to the next rounds."""
    return jax.tree.map(lambda leaf: leaf.copy(), state)


def new_run(simulation: Simulation) -> RunState:
    """The beginning of a run, before its first evaluation, which copies the state."""
    # Block here: on CPU, copying a buffer whose allocation failed hangs.
    state = jax.block_until_ready(simulation.init())
    return RunState(state, state, 0, (), None, "")
