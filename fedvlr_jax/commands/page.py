"""Writes the page of a folder of runs.

    fedvlr page runs

Takes every run below the folder: those of fedvlr train, members of a sweep, trials of a search.
Runs that differ only in their seed belong in folders choice/seed0, choice/seed1, as fedvlr sweep
writes them. If the runs of such a folder differ in more, each is a choice of its own. Only runs of
equal data, --protocol and --select are compared with each other.

index.html shows the validation curves, the test results beside the baselines of the runs, the
paired tests against the first choice of each data set, and the command of each choice. page.md,
page.csv and page.json have the table.

A run that cannot be read is named, and the others are on the page. A run that has not finished has
its curve on the page, and no line in the table. Only the page and the table are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from fedvlr_jax.commands.tables.comparison import (
    BASELINE_FACTS,
    NOT_SHOWN,
    Compared,
    compare_with_first,
    compared_runs,
    correct,
    different_runs,
)
from fedvlr_jax.commands.tables.comparison_table import write_comparison
from fedvlr_jax.commands.tables.page import Found, find_runs
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.report.results import judged_slice
from fedvlr_jax.report.run_directory import CONFIG, REPORT, SUMMARY, USERS

FLAGS = flags.FLAGS
# The array of users.npz that the tests compare.
JUDGED = "judged: ndcg@50"


class Finished(NamedTuple):
    """A finished run, and the arrays of its users.npz."""

    found: Found
    users: dict[str, np.ndarray]


def main() -> None:
    if not FLAGS.workdir:
        raise InputError("give a folder of runs: fedvlr page runs")
    folder = Path(FLAGS.workdir)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"--workdir={folder}: found {found}; give a folder of runs")
    runs = find_runs(folder)
    finished, damaged = with_users(runs.by_choice)
    for line in (*runs.unread, *damaged):
        print(f"left out: {line}")
    if not finished:
        own = f"it is one run, with {folder / REPORT}; " if (folder / CONFIG).is_file() else ""
        raise InputError(
            f"--workdir={folder}: no run below it has finished; {own}give a folder of runs"
        )
    lines = table_of(finished, runs.data)
    write_comparison(lines, folder / "page", f"Runs below {folder}", runs.by_choice, runs)


def with_users(
    by_choice: Mapping[str, Sequence[Found]],
) -> tuple[dict[str, list[Finished]], list[str]]:
    """The finished runs by choice, and one line for each whose results cannot be used."""
    finished: dict[str, list[Finished]] = {}
    damaged = []
    for choice, runs in by_choice.items():
        for run in runs:
            if not run.summary:
                continue
            if not {"warm", "cold"} <= run.summary.get("test", {}).keys():
                damaged.append(f"{run.path / SUMMARY}: lacks the slices of the test part")
                continue
            if not (run.path / USERS).exists():
                damaged.append(f"{run.path / USERS}: missing, though the run has finished")
                continue
            try:
                users = RunDirectory.open(run.path).read_users()
            except InputError as error:
                damaged.append(error.line)
                continue
            if missing := {"ahead", "tied", JUDGED} - users.keys():
                damaged.append(f"{run.path / USERS}: lacks {', '.join(sorted(missing))}")
                continue
            finished.setdefault(choice, []).append(Finished(run, users))
    return finished, damaged


def table_of(
    finished: Mapping[str, Sequence[Finished]], data: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A line a choice and one a baseline, data set by data set.

    Each is tested against the first choice of its data set.

    Args:
      data: of each choice; choices of equal data are comparable.
    """
    by_data: dict[str, dict[str, Sequence[Finished]]] = {}
    for choice, runs in finished.items():
        by_data.setdefault(data[choice], {})[choice] = runs
    lines: list[dict[str, Any]] = []
    for name, choices in by_data.items():
        compared = [_choice(label, runs) for label, runs in choices.items()]
        # All runs with baselines have the same ones, as far as they were tuned alike.
        everything = [run for runs in choices.values() for run in runs]
        evaluated = [run for run in everything if run.found.summary.get("baselines")]
        baselines = _baselines(evaluated[0]) if evaluated else []
        found = compare_with_first(compared, baselines)
        if len(by_data) > 1:
            found = [{"dataset": name, **line} for line in found]
        lines += found
    # Over the whole table, of all data sets.
    correct([line for line in lines if "gain" in line])
    return lines


def _choice(label: str, runs: Sequence[Finished]) -> Compared:
    kept = [runs[at] for at in different_runs([(r.users["ahead"], r.users["tied"]) for r in runs])]
    summaries = [run.found.summary for run in kept]
    ndcg = [run.users[JUDGED] for run in kept]
    return compared_runs(label, summaries, ndcg, judged_slice(summaries[0]))


def _baselines(run: Finished) -> list[Compared]:
    """The baselines that a run was compared with, as choices with one seed."""
    summary, found = run.found.summary, []
    for name, entry in (summary.get("baselines") or {}).items():
        ndcg = run.users.get(f"{name}: ndcg@50")
        if name in NOT_SHOWN or ndcg is None:
            continue
        of_baseline = {"test": entry, "valid": entry["valid"], "select": summary.get("select")}
        compared = compared_runs(name, [of_baseline], [ndcg], judged_slice(summary))
        compared.line["baseline_of"] = {key: entry[key] for key in BASELINE_FACTS}
        found.append(compared)
    return found
