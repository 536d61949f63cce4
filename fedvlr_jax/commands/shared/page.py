"""Makes index.html of a folder of runs from the files of the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedvlr_jax.commands.shared.finished import validation
from fedvlr_jax.commands.shared.reproduce import command_of, wrapped
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.report.folder import Group, Run, Table, render_folder
from fedvlr_jax.report.run_directory import CONFIG, METRICS, REPORT, SUMMARY
from fedvlr_jax.report.verdict import users_differ
from fedvlr_jax.selection import Selection, selection_of

PAGE = "index.html"


def folder_page(
    folder: Path, table: Table, lines: Sequence[Mapping[str, Any]], files: Sequence[str] = ()
) -> str:
    """The page of the runs below `folder`, as HTML text.

    The page names the runs that cannot be read, and shows all others.
    """
    groups, unread, label = read_groups(folder)
    return render_folder(table, lines, groups, label=label, unread=unread, files=files)


class Found(NamedTuple):
    """The files of one run; `summary` is {} for an unfinished run."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]


# Files that only a run writes; without config.json the run is unknown.
_LEFT_BY_RUNS = (METRICS, SUMMARY, "checkpoints")


def find_runs(folder: Path) -> tuple[dict[str, list[Found]], list[str]]:
    """The runs below a folder, and one line for each that cannot be read.

    Returns:
      by_choice: by the folder that holds the runs of all seeds, relative to `folder`.
      unread: the lines.
    """
    by_choice: dict[str, list[Found]] = {}
    unread = []
    names = (CONFIG, *_LEFT_BY_RUNS)
    for run in sorted({path.parent for name in names for path in folder.glob(f"*/**/{name}")}):
        path = run.relative_to(folder)
        seeded = path.name.startswith("seed") and len(path.parts) > 1
        try:
            found = _read(run)
        except InputError as error:
            unread.append(str(error).removeprefix("--workdir="))
            continue
        by_choice.setdefault((path.parent if seeded else path).as_posix(), []).append(found)
    return by_choice, unread


def read_groups(folder: Path) -> tuple[list[Group], list[str], str]:
    """The runs below a folder, grouped by choice.

    Returns:
      groups: by the folder that holds the runs of all seeds.
      unread: one line for each run that cannot be read.
      label: of the metric that the runs were selected by.
    """
    by_choice, unread = find_runs(folder)
    finished = [found.summary for of in by_choice.values() for found in of if found.summary]
    # An unfinished run does not record the judged slice of its data set.
    usual = selection_of(finished[0] if finished else {})
    groups = [_group(choice, folder, found, usual) for choice, found in by_choice.items()]
    return groups, unread, usual.label


def _read(path: Path) -> Found:
    """Raises InputError with the name of the file if a file is damaged or of another kind."""
    run = RunDirectory.open(path)
    config = run.read_config()
    summary = run.read_summary() if run.has_results() else {}
    evaluated = (path / METRICS).exists()
    if summary and not evaluated:
        raise InputError(f"{path / METRICS}: missing, though the run has finished")
    metrics = run.read_metrics() if evaluated else []
    known = isinstance(summary.get("valid", {}), dict) and (
        not summary or {"valid", "selected_round", "rounds_run"} <= summary.keys()
    )
    if not known:
        raise InputError(f"{path / SUMMARY}: not the summary of a run")
    return Found(path, config, summary, metrics)


def _group(choice: str, folder: Path, found: Sequence[Found], usual: Selection) -> Group:
    finished = [of.summary for of in found if of.summary]
    curves = [_curve(of, usual) for of in found]
    ran = [of.summary.get("rounds_run") or _last_round(of.metrics) for of in found]
    dataset = str((found[0].config.get("dataset") or {}).get("name", ""))
    return Group(
        label=choice.removeprefix(f"{dataset}/"),
        dataset=dataset,
        runs=[_run(folder, of) for of in found],
        curves=curves,
        valid=[validation(summary) for summary in finished],
        selected=[int(summary["selected_round"]) for summary in finished],
        rounds=sum(ran),
        command=_command(folder, found[0].config),
        differ=users_differ(finished[0]) if finished else "",
    )


def _curve(found: Found, usual: Selection) -> list[tuple[int, float]]:
    selection = selection_of(found.summary) if found.summary else usual
    values = [(e["round"], selection.value(e.get("valid") or {})) for e in found.metrics]
    return [(number, value) for number, value in values if value is not None]


def _last_round(metrics: Sequence[Mapping[str, Any]]) -> int:
    return metrics[-1]["round"] if metrics else 0


def _run(folder: Path, found: Found) -> Run:
    report = found.path / REPORT
    link = report.relative_to(folder).as_posix() if report.exists() else ""
    return Run(found.path.name, link, "finished" if found.summary else "not finished")


def _command(folder: Path, config: Mapping[str, Any]) -> str:
    """fedvlr train with the flags of a member; "" for a run of another command."""
    try:
        flags = Config.from_flat(**config["flags"])
    except InputError:
        return ""
    return wrapped(command_of(flags, workdir=f"{folder}-best"))
