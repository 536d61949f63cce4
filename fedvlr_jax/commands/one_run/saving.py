"""Saves a run and loads it: the time of a save, its content, and the way back."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.federated.devices import agreed
from fedvlr_jax.simulation import Simulation, State, drawn, remaking
from fedvlr_jax.training import RunState
from fedvlr_jax.types import METRIC_TYPES, PyTree, RoundMetrics

# Upper bound between saves, so that a killed run loses at most one minute (or --checkpoint_every
# rounds, if they take longer), plus the training during an unfinished save.
LONGEST_REST_S = 60.0
# Assumed cost of the first save: more than twice the time of orbax, hash and disk for a small
# state. A very short run is therefore saved only at its end.
FIRST_SAVE_S = 0.1
# Key in the tree: the best state before the evaluation at the end of --rounds. It is needed if that
# evaluation is not at a multiple of --eval_every and selected the last state.
BEST_BEFORE_END = "best_before_end"


def rest_s(took_s: float, share: float) -> float:
    """Minimum seconds from the start of a save that took `took_s` to the start of the next."""
    return min(took_s / share, LONGEST_REST_S)


def _position(run: RunState) -> tuple[int, int]:
    return run.round, len(run.evaluations)


class Saver:
    """Saves one run every --checkpoint_every rounds, within the limit of --checkpoint_share.

    The clock affects only the time of a save, never the results of a run. With several processes
    all call the same methods, and the clock of the first process decides.
    """

    def __init__(self, simulation: Simulation, checkpoints: Checkpoints, run: RunState) -> None:
        self._simulation, self._checkpoints = simulation, checkpoints
        self._saved_at = _position(run)
        self._has_saved = False
        self._began = time.perf_counter()

    def after_rounds(self, run: RunState) -> None:
        """Saves after a multiple of --checkpoint_every rounds, if --checkpoint_share allows it."""
        every = self._simulation.config.run.checkpoint_every
        if run.round // every > self._saved_at[0] // every and self._allowed():
            self._save(run)

    def finish(self, run: RunState) -> None:
        """Saves the current state, if it is not saved yet, and waits for the save."""
        if _position(run) != self._saved_at:
            self._save(run)
        self._checkpoints.wait()

    def _allowed(self) -> bool:
        share = self._simulation.config.run.checkpoint_share
        # With share 1 a new save waits for an unfinished one.
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
    """Starts to save the run of these `flags`; see `Checkpoints.save`."""
    # A state between two evaluations has no score.
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


def _lists(rounds: RoundMetrics | None) -> dict[str, list[Any]] | None:
    return rounds and {name: x.tolist() for name, x in rounds._asdict().items()}


def _round_metrics(lists: dict[str, list[Any]] | None) -> RoundMetrics | None:
    """The inverse of `_lists`, with the same bits."""
    if lists is None:
        return None
    arrays: Any = {name: np.array(x, METRIC_TYPES[name]) for name, x in lists.items()}
    return RoundMetrics(**arrays)


def _tree(simulation: Simulation, run: RunState) -> dict[str, Any]:
    """The arrays of a run, as `checkpointing` documents them: at most two states."""
    state = remaking.pack(simulation, run.state, run.before)
    tree = {"state": state, "best": state}
    if run.best_round != run.round:
        best = remaking.pack(simulation, run.best_state, run.best_before)
        tree["best"] = _with_same(best, trees.named_leaves(state))
    elif (earlier := run.before_end) is not None:
        tree[BEST_BEFORE_END] = remaking.pack(simulation, earlier.best_state, earlier.best_before)
    return tree


def _with_same(packed: PyTree, others: Mapping[str, Any]) -> PyTree:
    """`packed` with the objects of `others`, by path, in place of leaves with the same bits.

    A checkpoint stores an object once. Rows in files are not read to compare them.
    """

    def same(path: Any, leaf: Any) -> Any:
        other = others.get(trees.path_name(path))
        plain = (np.ndarray, jax.Array)
        if not isinstance(leaf, plain) or not isinstance(other, plain) or trees.is_key(leaf):
            return leaf
        if isinstance(leaf, np.memmap) or leaf.shape != other.shape or leaf.dtype != other.dtype:
            return leaf
        bits = lambda array: np.asarray(array).reshape(-1).view(np.uint8)
        return other if np.array_equal(bits(leaf), bits(other)) else leaf

    return jax.tree_util.tree_map_with_path(same, packed)


def load_state(
    simulation: Simulation, checkpoints: Checkpoints, round_number: int, part: str
) -> tuple[State, PyTree]:
    """One state of a whole checkpoint, and the input of its item rows; None if they are saved.

    Args:
      part: its name in the tree, such as "best".
    """
    leaves = checkpoints.read_meta(round_number)["leaves"]
    like = simulation.packed_shapes(leaves, part)
    if stored := drawn.shapes(leaves, part):
        like = {**like, drawn.DRAWN: stored}
    if f"{part}.{remaking.BEFORE}.clients" in leaves:
        before = simulation.packed_shapes(leaves, f"{part}.{remaking.BEFORE}")
        like = {**like, remaking.BEFORE: before}
    packed = checkpoints.load(round_number, {part: like})[part]
    # Kept in host memory: the round that makes the rows is given copies.
    before = remaking.on_host(packed.get(remaking.BEFORE))
    return remaking.unpack(simulation, packed), before


def load_run(simulation: Simulation, checkpoints: Checkpoints, round_number: int) -> RunState:
    """Loads the run from a whole checkpoint. The caller sets `stopped`."""
    meta = checkpoints.read_meta(round_number)

    # Load one state at a time: a resumed run must not need more memory than before.
    load = functools.partial(load_state, simulation, checkpoints, round_number)
    state, made_from = load("state")
    evaluations, best_round = tuple(meta["evaluations"]), meta["best_round"]
    # Checkpoints of earlier versions lack this entry.
    before = meta.get("before_end")
    if before is None:
        since = _round_metrics(meta["since"])
        best_state, best_from = load("best")
        run = RunState(state, best_state, best_round, evaluations, since, "")
        return run._replace(before=made_from, best_before=best_from)
    at_end = best_round == round_number
    best_state, best_from = load(BEST_BEFORE_END if at_end else "best")
    earlier = RunState(
        state=state,
        best_state=best_state,
        best_round=before["best_round"],
        evaluations=evaluations[:-1],
        since=_round_metrics(before["since"]),
        stopped="",
        before=made_from,
        best_before=best_from,
    )
    return earlier._replace(
        best_state=state if at_end else earlier.best_state,
        best_before=made_from if at_end else best_from,
        best_round=best_round,
        evaluations=evaluations,
        since=None,
        before_end=earlier,
    )
