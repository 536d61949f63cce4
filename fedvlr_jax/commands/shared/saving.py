"""When a run is saved, what is saved of it, and how it is read back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.federated.devices import agreed
from fedvlr_jax.simulation import Simulation, State
from fedvlr_jax.training import RunState
from fedvlr_jax.types import METRIC_TYPES, RoundMetrics

# However dear a save is: for the sake of the price no run that is killed loses more than a
# minute, or --checkpoint_every rounds where they take longer, beside what was trained while the
# newest save was under way.
LONGEST_REST_S = 60.0
# What a save is taken to cost before a run has made one: over twice what orbax, hash and
# disk take for a small state. A run that is over before this is paid is saved at its end alone.
FIRST_SAVE_S = 0.1
# Of the tree: the best state before the evaluation at the end of --rounds, where that evaluation
# is off the multiples of --eval_every and selected the state at the end.
BEST_BEFORE_END = "best_before_end"


def rest_s(took_s: float, share: float) -> float:
    """Seconds from the beginning of a save that took `took_s` to that of the next one."""
    return min(took_s / share, LONGEST_REST_S)


def _position(run: RunState) -> tuple[int, int]:
    return run.round, len(run.evaluations)


class Saver:
    """Saves one run as often as --checkpoint_every asks and --checkpoint_share allows.

    The clock decides when, and nothing else: what a run computes does not depend on it. Of
    several processes all call the same methods, and the first one's clock decides for all.
    """

    def __init__(self, simulation: Simulation, checkpoints: Checkpoints, run: RunState):
        self._simulation, self._checkpoints = simulation, checkpoints
        self._saved_at = _position(run)
        self._has_saved = False
        self._began = time.perf_counter()

    def after_rounds(self, run: RunState) -> None:
        """Saves if a multiple of --checkpoint_every was passed since, and the price allows it."""
        every = self._simulation.config.run.checkpoint_every
        if run.round // every > self._saved_at[0] // every and self._allowed():
            self._save(run)

    def finish(self, run: RunState) -> None:
        """Returns when the run is saved as it stands."""
        if _position(run) != self._saved_at:
            self._save(run)
        self._checkpoints.wait()

    def _allowed(self) -> bool:
        share = self._simulation.config.run.checkpoint_share
        # To the letter: a save that is still under way is waited for.
        return share == 1 or bool(agreed(int(self._rested(share))))

    def _rested(self, share: float) -> bool:
        ended = self._checkpoints.ended if self._has_saved else self._began + FIRST_SAVE_S
        if ended is None:
            return False
        return time.perf_counter() - self._began >= rest_s(ended - self._began, share)

    def _save(self, run: RunState) -> None:
        self._has_saved = True
        self._began = time.perf_counter()
        save_run(self._simulation, self._checkpoints, run, self._simulation.config.flat)
        self._saved_at = _position(run)


def save_run(
    simulation: Simulation, checkpoints: Checkpoints, run: RunState, flags: Mapping[str, Any]
) -> None:
    """Begins to save the run that these `flags` name; see `Checkpoints.save`."""
    # Between two evaluations a state has no score.
    scored = [e["valid"] for e in run.evaluations if e["round"] == run.round]
    score = (simulation.selection.value(scored[0]) if scored else None) or 0.0
    tree, meta = _tree(simulation, run), _meta(simulation, run, flags)
    checkpoints.save(run.round, tree, meta, score=score)


def _meta(simulation: Simulation, run: RunState, flags: Mapping[str, Any]) -> dict[str, Any]:
    before = run.before_end
    return {
        "flags": dict(flags),
        "fingerprint": simulation.dataset.fingerprint,
        "evaluations": run.evaluations,
        "best_round": run.best_round,
        "since": _lists(run.since),
        "before_end": before and {"best_round": before.best_round, "since": _lists(before.since)},
    }


def _lists(rounds: RoundMetrics | None) -> dict[str, list] | None:
    return rounds and {name: x.tolist() for name, x in rounds._asdict().items()}


def _round_metrics(lists: dict[str, list] | None) -> RoundMetrics | None:
    """The metrics of `_lists`, to the bit."""
    if lists is None:
        return None
    arrays: Any = {name: np.array(x, METRIC_TYPES[name]) for name, x in lists.items()}
    return RoundMetrics(**arrays)


def _tree(simulation: Simulation, run: RunState) -> dict[str, Any]:
    """The arrays of a run, as `checkpointing` documents them: two states at most."""
    state = simulation.pack(run.state)
    tree = {"state": state, "best": state}
    if run.best_round != run.round:
        tree["best"] = simulation.pack(run.best_state)
    elif run.before_end is not None:
        tree[BEST_BEFORE_END] = simulation.pack(run.before_end.best_state)
    return tree


def load_run(simulation: Simulation, checkpoints: Checkpoints, round_number: int) -> RunState:
    """The run as a whole checkpoint has it; its `stopped` is left to the caller."""
    meta = checkpoints.read_meta(round_number)

    def load(part: str) -> State:
        # One at a time: to go on is to take no more memory than the run took before.
        like = simulation.packed_shapes(meta["leaves"], part)
        return simulation.unpack(checkpoints.load(round_number, {part: like})[part])

    state = load("state")
    evaluations, best_round = tuple(meta["evaluations"]), meta["best_round"]
    # Checkpoints of earlier versions have none.
    before = meta.get("before_end")
    if before is None:
        since = _round_metrics(meta["since"])
        return RunState(state, load("best"), best_round, evaluations, since, "")
    at_end = best_round == round_number
    earlier = RunState(
        state=state,
        best_state=load(BEST_BEFORE_END if at_end else "best"),
        best_round=before["best_round"],
        evaluations=evaluations[:-1],
        since=_round_metrics(before["since"]),
        stopped="",
    )
    return earlier._replace(
        best_state=state if at_end else earlier.best_state,
        best_round=best_round,
        evaluations=evaluations,
        since=None,
        before_end=earlier,
    )
