"""The rounds of the evaluations of a run, and its end.

An evaluation between two multiples of --eval_every exists only because --rounds ended there. A run
that is resumed with more rounds drops it, with its selection: see `RunState.before_end`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.training.run_state import RunState


def block_length(config: Config, finished: int) -> int:
    """Rounds until the next evaluation, which is at a multiple of --eval_every or at the end.

    0 if it is due: the run was interrupted within a block, and --rounds now ends there.
    """
    every = config.evaluation.eval_every
    return max(0, min(every - finished % every, config.federation.rounds - finished))


def is_scheduled(config: Config, round_number: int) -> bool:
    """Whether an evaluation after so many rounds does not depend on --rounds."""
    return round_number % config.evaluation.eval_every == 0


def _since_best(evaluations: Sequence[dict[str, Any]]) -> list[int]:
    """For each evaluation, the number of evaluations since the best one: 0 for a new best one."""
    waited: list[int] = []
    for entry in evaluations:
        better = entry["best_round"] == entry["round"]
        waited.append(0 if better or not waited else waited[-1] + 1)
    return waited


def why_stopped(config: Config, evaluations: Sequence[dict[str, Any]]) -> str:
    """The `stopped` of a run with these evaluations, as if it was started once."""
    if not evaluations:
        return ""
    newest, patience = evaluations[-1]["round"], config.evaluation.patience
    # A run with more rounds has no evaluation at this end, so it does not stop there.
    if patience and is_scheduled(config, newest) and _since_best(evaluations)[-1] >= patience:
        return "patience"
    return "rounds" if newest >= config.federation.rounds else ""


def _was_end(config: Config, evaluations: Sequence[dict[str, Any]]) -> bool:
    """Whether the last evaluation was made only at the end of fewer rounds than --rounds."""
    newest = evaluations[-1]["round"] if evaluations else 0
    return newest < config.federation.rounds and not is_scheduled(config, newest)


def position(config: Config, evaluations: Sequence[dict[str, Any]], finished: int) -> str:
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
