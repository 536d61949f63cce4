"""Results of a finished run: writes them, reads them, and adds missing ones.

summary.json is written last. If it exists, the run of config.json has finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax import report as reports
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.selection import selection_of
from fedvlr_jax.training.summary import BaselineSummary, with_baselines

# Resumable flags that change the results of a finished run.
OF_RESULTS = ("rounds", "patience", "baselines", "tune_baselines")


class Results(NamedTuple):
    """The files of a finished run; `metrics` are the evaluations."""

    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    users: dict[str, np.ndarray]


def write_results(
    directory: RunDirectory, summary: Mapping[str, Any], users: Mapping[str, np.ndarray]
) -> None:
    """Writes users.npz, the report and the summary. config.json and metrics.jsonl must exist."""
    report = reports.render_report(
        directory.read_config(), summary, directory.read_metrics(), users
    )
    directory.write_users(users)
    directory.write_report(report)
    directory.write_summary(summary)


def read_results(directory: RunDirectory, note: Callable[[str], None]) -> Results | None:
    """The results of a finished run; None if it has not finished or a file is damaged.

    `note` gets the name of a missing or damaged file of a finished run.
    """
    if not directory.has_results():
        return None
    try:
        return Results(directory.read_summary(), directory.read_metrics(), directory.read_users())
    except InputError as error:
        note(f"the run had finished, but {error.line}")
        return None


def validation(summary: Mapping[str, Any]) -> float:
    """The validation value of the selected state, in percent; 0 if the slice has no targets."""
    return selection_of(summary).value(summary["valid"]) or 0.0


def _tuned_otherwise(
    evaluated: Mapping[str, Mapping[str, Any]], saved: Mapping[str, Any], flags: Mapping[str, Any]
) -> bool:
    """Whether the baselines of a summary were tuned in another way than `flags` ask for."""
    if saved.get("tune_baselines") is None:
        return False  # Runs of earlier versions do not record it; their baselines stay.
    if saved.get("baselines"):
        return saved["tune_baselines"] != flags.get("tune_baselines")
    # The last call did not ask for baselines, so its --tune_baselines says nothing about them.
    tuned = any(entry.get("settings_tried", 1) > 1 for entry in evaluated.values())
    return tuned != flags.get("tune_baselines")


def complete_results(
    directory: RunDirectory,
    results: Results,
    flags: Mapping[str, Any],
    describe: Callable[[], Mapping[str, Any]],
    baselines: Callable[[], BaselineSummary],
    *,
    stopped: str | None = None,
) -> dict[str, Any]:
    """Adds the baselines and the report, if the flags ask for them and the directory lacks them.

    Existing baselines stay, even with --baselines=false. Another value of --tune_baselines
    evaluates them again.

    Args:
      flags: the flags of this call.
      describe: returns the config.json of these flags.
      baselines: evaluates the baselines; called only if they are needed and missing.
      stopped: why the run ended under these flags; None: as before.

    Returns:
      The summary, as it is now on disk.
    """
    summary, users = dict(results.summary), results.users
    saved = directory.read_config()["flags"]
    evaluated = summary.get("baselines") or {}
    if flags["baselines"] and (not evaluated or _tuned_otherwise(evaluated, saved, flags)):
        summary, users = with_baselines(summary, users, baselines())
    if stopped is not None:
        summary["stopped"] = stopped
    told = all(saved.get(name) == flags.get(name) for name in OF_RESULTS)
    if told and summary == results.summary and directory.has_report():
        return summary
    described = describe()
    if users is not results.users:
        directory.write_users(users)
    directory.write_report(reports.render_report(described, summary, results.metrics, users))
    directory.write_summary(summary)
    # Written last: after an interruption the next start finds different flags and repeats this.
    directory.write_config(described)
    return summary
