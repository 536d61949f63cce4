"""The folder of a member: its content, and whether it belongs to these flags and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.commands.launching.messages import command
from fedvlr_jax.commands.members.choices import Member
from fedvlr_jax.commands.members.say import say
from fedvlr_jax.commands.one_run.finished import (
    Results,
    complete_results,
    read_results,
    validation,
)
from fedvlr_jax.commands.one_run.runs import check_same, describe
from fedvlr_jax.config import RESUMABLE_WHEN_FINISHED
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.training import RunState
from fedvlr_jax.training.summary import BaselineSummary


def check_member(
    directory: Path, flags: Mapping[str, Any], fingerprint: str, *, can_overwrite: bool = True
) -> None:
    """Checks that the directory contains no run, or the run of these flags and data.

    Args:
      can_overwrite: as of `check_same`.

    Raises:
      InputError: it contains another run, finished or not. The message names the differences.
    """
    if not (directory / "config.json").exists():
        return
    saved = RunDirectory.open(directory).read_config()
    check_same(
        str(directory),
        (saved["flags"], saved["dataset"]["fingerprint"]),
        (flags, fingerprint),
        RESUMABLE_WHEN_FINISHED,
        can_overwrite=can_overwrite,
    )


def finished_results(directory: Path) -> Results | None:
    """The results of a member; None if it has not finished or a file is damaged."""
    if not (directory / "config.json").exists():
        return None
    note = lambda line: say(f"{directory}: {line}; trains it again")
    return read_results(RunDirectory.open(directory), note)


def complete(
    directory: Path,
    flags: Mapping[str, Any],
    describe: Callable[[], Mapping[str, Any]],
    baselines: Callable[[], BaselineSummary],
) -> bool:
    """Whether the member has finished. Adds the results that the flags ask for and it lacks."""
    results = finished_results(directory)
    if results is not None:
        complete_results(RunDirectory.open(directory), results, flags, describe, baselines)
    return results is not None


def leave_out(directory: Path, why: str) -> None:
    """Removes the summary of a failed run, which may be that of an earlier run, and says why."""
    (directory / "summary.json").unlink(missing_ok=True)
    say(f"{directory}: {why}; left out of the comparison")


def checkpoints_of(folder: Path) -> Checkpoints:
    """The checkpoints of a member that a signal stopped, or whose model is kept."""
    return Checkpoints(folder / "checkpoints", keep=1)


def saved_round(member: Member) -> int | None:
    """The round after which a signal stopped the member; None if it starts from the beginning."""
    if member.config.run.overwrite or not (member.directory / "config.json").exists():
        return None
    checkpoints = checkpoints_of(member.directory)
    newest = checkpoints.newest(say)
    if newest is None:
        return None
    # A checkpoint of fedvlr train may lie between two evaluations; it cannot be used here.
    meta = checkpoints.read_meta(newest)
    return newest if meta["since"] is None and meta["before_end"] is None else None


def begin_directory(member: Member, run: RunState, dataset: Dataset) -> RunDirectory:
    """Creates the member's folder with config.json and metrics.jsonl, without a checkpoint.

    Its privacy.json and ledger.json stay: they are written while it trains.
    """
    directory = RunDirectory.create(member.directory, overwrite=True, keep_private=True)
    directory.write_config(describe(member.config, dataset))
    directory.write_metrics(run.evaluations)
    return directory


def validation_of(directory: Path) -> float | None:
    """The validation value that a finished run was selected by, in percent; else None."""
    if not (directory / "summary.json").exists():
        return None
    return validation(RunDirectory.open(directory).read_summary())


def keep_best_model(candidates: Sequence[Path], folders: Sequence[Path]) -> str:
    """Keeps one checkpoint, that of the candidate with the highest validation value.

    Those of the other `folders` are removed. Says where it is and what reads it; a run that
    finished before --keep_best_model was given has none.
    """
    best = max(candidates, key=lambda folder: validation_of(folder) or -1.0)
    for folder in folders:
        if folder != best and (folder / "checkpoints").exists():
            checkpoints_of(folder).clear()
    if not checkpoints_of(best).rounds():
        return f"{best}: finished without --keep_best_model; its command trains it again"
    return f"best model: {best}; {command('evaluate', workdir=best, export='FILE')} reads it"
