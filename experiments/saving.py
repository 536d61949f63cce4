"""When a run is saved, and what is saved of it."""

from __future__ import annotations

import time
from typing import Any

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.federated.devices import agreed
from fedvlr_jax.simulation import Simulation
from fedvlr_jax.training import SELECTION_METRIC, RunState

# However dear a save is: for the sake of the price no run that is killed loses more than a
# minute, or --checkpoint_every rounds where they take longer, beside what was trained while the
# newest save was under way.
LONGEST_REST_S = 60.0
# What a save is taken to cost before a run has made one: over twice what orbax, hash and
# disk take for a small state. A run that is over before this is paid is saved at its end alone.
FIRST_SAVE_S = 0.1


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
        # Between two evaluations a state has no score.
        scored = [e["valid"] for e in run.evaluations if e["round"] == run.round]
        score = scored[0].get(SELECTION_METRIC, 0.0) if scored else 0.0
        tree, meta = _tree(self._simulation, run), _meta(self._simulation, run)
        self._checkpoints.save(run.round, tree, meta, score=score)
        self._saved_at = _position(run)


def _meta(simulation: Simulation, run: RunState) -> dict[str, Any]:
    return {
        "flags": simulation.config.flat,
        "fingerprint": simulation.dataset.fingerprint,
        "evaluations": run.evaluations,
        "best_round": run.best_round,
        "since": run.since and {name: x.tolist() for name, x in run.since._asdict().items()},
    }


def _tree(simulation: Simulation, run: RunState) -> dict[str, Any]:
    """The arrays of a run, as `checkpointing` documents them."""
    state = simulation.pack(run.state)
    is_best = run.best_round == run.round
    return {"state": state, "best": state if is_best else simulation.pack(run.best_state)}
