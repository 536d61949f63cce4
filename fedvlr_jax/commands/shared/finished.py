"""What a finished run leaves: written in one order, read back, completed where it lacks something.

summary.json is written last. Where it is, the run of config.json has finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax import report as reports
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.selection import selection_of
from fedvlr_jax.summary import BaselineSummary, with_baselines

# Free flags that change what a finished run says of itself.
OF_RESULTS = ("rounds", "patience", "baselines", "tune_baselines")


class Results(NamedTuple):
    """The files of a finished run; `metrics` are the evaluations."""

    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    users: dict[str, np.ndarray]


def write_results(
    directory: RunDirectory, summary: Mapping[str, Any], users: Mapping[str, np.ndarray]
) -> None:
    """Writes what a run leaves beside its config.json and metrics.jsonl, which must be there."""
    report = reports.render_report(
        directory.read_config(), summary, directory.read_metrics(), users
    )
    directory.write_users(users)
    directory.write_report(report)
    directory.write_summary(summary)


def read_results(directory: RunDirectory, note: Callable[[str], None]) -> Results | None:
    """The results of a finished run; None where it has not finished or a file is not whole.

    `note` hears which file of a finished run is missing or damaged.
    """
    if not directory.has_results():
        return None
    try:
        return Results(directory.read_summary(), directory.read_metrics(), directory.read_users())
    except InputError as error:
        note(f"the run had finished, but {error}")
        return None


def validation(summary: Mapping[str, Any]) -> float:
    """The validation value that the run was selected by, in percent; 0 without such a target."""
    return selection_of(summary).value(summary["valid"]) or 0.0


def complete_results(
    directory: RunDirectory,
    results: Results,
    flags: Mapping[str, Any],
    describe: Callable[[], Mapping[str, Any]],
    baselines: Callable[[], BaselineSummary],
    *,
    stopped: str | None = None,
) -> dict[str, Any]:
    """Adds what the flags ask for and the directory lacks: baselines, the report.

    Baselines that are there stay, whatever --baselines says; with another --tune_baselines they are
    evaluated again.

    Args:
      flags: as they are given now. describe: makes the config.json of them.
      baselines: evaluates them; called only if they are asked for and not there.
      stopped: why the run is over by these flags; None: as before.

    Returns:
      The summary, as it is on disk by now.
    """
    summary, users = dict(results.summary), results.users
    saved = directory.read_config()["flags"]
    # Runs of earlier versions do not say how their baselines were tuned: they stay.
    retuned = saved.get("tune_baselines") not in (None, flags.get("tune_baselines"))
    if flags["baselines"] and (retuned or not summary.get("baselines")):
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
    # Last: if this is cut short, the next start finds the flags differing, and repeats it.
    directory.write_config(described)
    return summary
