"""Makes index.html of a folder of runs from the files of the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedvlr_jax.commands.one_run.finished import validation
from fedvlr_jax.commands.tables.reproduce import command_of, wrapped
from fedvlr_jax.config import PERMUTATIONS, RESUMABLE_WHEN_FINISHED, Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.report.folder import Group, Run, Table, render_folder
from fedvlr_jax.report.run_directory import CONFIG, METRICS, REPORT, SUMMARY
from fedvlr_jax.report.verdict import users_differ
from fedvlr_jax.selection import SLICES, Selection, selection_of

PAGE = "index.html"


# Flags that runs of one choice may differ in. Each seed has its own permutation.
_MAY_DIFFER = RESUMABLE_WHEN_FINISHED | {"seed", "workdir", *PERMUTATIONS}
# Results of runs that differ in one of these flags are not comparable.
_OF_COMPARISON = ("synthetic_kind", "synthetic_seed", "protocol", "select")
# Flags that change the fingerprint of the data, but neither the users nor their targets.
_OF_TRAINING_DATA = ("recency", *PERMUTATIONS)


class Found(NamedTuple):
    """The files of one run; `summary` is {} for an unfinished run."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]

    @property
    def flags(self) -> dict[str, Any]:
        return self.config["flags"]

    @property
    def dataset(self) -> dict[str, Any]:
        return self.config.get("dataset") or {}

    @property
    def data_name(self) -> str:
        return str(self.dataset.get("name", ""))

    @property
    def fingerprint(self) -> str:
        return str(self.dataset.get("fingerprint", ""))[:12]

    @property
    def compared_by(self) -> dict[str, str]:
        """The data, the protocol and the validation metric, by label.

        Only runs with equal values are comparable.
        """
        counts = (self.dataset.get("interactions") or {}).values()
        rules = {name: str(self.flags.get(name, "")) for name in _OF_COMPARISON}
        return {
            "": self.data_name,
            "split": str(self.dataset.get("split", "")),
            "interactions": " / ".join(map(str, counts)),
            **rules,
        }


class FoundRuns(NamedTuple):
    """The runs below a folder.

    Attributes:
      by_choice: the runs that differ only in their seed, by the folder that holds all seeds,
        relative to the folder.
      data: by choice, the name of its data set, and what else must be equal for a comparison if
        it differs among the choices of this name, such as the protocol.
      unread: one line for each run that cannot be read.
    """

    by_choice: dict[str, list[Found]]
    data: dict[str, str]
    unread: list[str]


def folder_page(
    folder: Path,
    table: Table,
    lines: Sequence[Mapping[str, Any]],
    files: Sequence[str] = (),
    runs: FoundRuns | None = None,
) -> str:
    """The page of the runs below `folder`, as HTML text.

    The page names the runs that cannot be read, and shows all others.

    Args:
      runs: None: read them.
    """
    runs = runs or find_runs(folder)
    groups, label = groups_of(folder, runs)
    # Choices have the names of the table; those of folders have other separators.
    labels = [str(line["choice"]) for line in lines if "choice" in line]
    names = {own.replace(" ", "-").replace("/", "_"): own for own in labels}
    groups = [group._replace(label=names.get(group.label, group.label)) for group in groups]
    # In the order of the table: of equal values, both mark the first as the best.
    place = {label: number for number, label in enumerate(labels)}
    groups.sort(key=lambda group: place.get(group.label, len(place)))
    return render_folder(table, lines, groups, label=label, unread=runs.unread, files=files)


# Files that only a run writes; without config.json the run is unknown.
_LEFT_BY_RUNS = (METRICS, SUMMARY, "checkpoints")


def find_runs(folder: Path) -> FoundRuns:
    """Reads the runs below a folder."""
    by_choice: dict[str, list[Found]] = {}
    unread = []
    names = (CONFIG, *_LEFT_BY_RUNS)
    for run in sorted({path.parent for name in names for path in folder.glob(f"*/**/{name}")}):
        path = run.relative_to(folder)
        seeded = path.name.startswith("seed") and len(path.parts) > 1
        try:
            found = _read(run)
        except InputError as error:
            unread.append(error.line.removeprefix("--workdir="))
            continue
        choice = (path.parent if seeded else path).as_posix()
        known = by_choice.get(choice)
        if known and not _only_the_seed_differs(found, known[0]):
            choice = path.as_posix()
        by_choice.setdefault(choice, []).append(found)
    return FoundRuns(by_choice, _names_of_data(by_choice), unread)


def _only_the_seed_differs(run: Found, other: Found) -> bool:
    # Runs of another version may lack a flag.
    shared = (run.flags.keys() & other.flags.keys()) - _MAY_DIFFER
    same = all(run.flags[name] == other.flags[name] for name in shared)
    changed = _alike(run) == _alike(other) and run.fingerprint != other.fingerprint
    return same and run.compared_by == other.compared_by and not changed


def _names_of_data(by_choice: Mapping[str, Sequence[Found]]) -> dict[str, str]:
    compared_by = {choice: found[0].compared_by for choice, found in by_choice.items()}
    # The data of one name may have changed between two runs.
    changed: dict[tuple[str, ...], set[str]] = {}
    for run, *_ in by_choice.values():
        changed.setdefault(_alike(run), set()).add(run.fingerprint)
    for choice, (run, *_) in by_choice.items():
        several = len(changed[_alike(run)]) > 1
        compared_by[choice]["fingerprint"] = run.fingerprint if several else ""
    names = {}
    for choice, own in compared_by.items():
        alike = [other for other in compared_by.values() if other[""] == own[""]]
        telling = [n for n in own if n and len({other[n] for other in alike}) > 1]
        names[choice] = ", ".join([own[""], *(f"{name} {own[name]}" for name in telling)])
    return names


def _alike(run: Found) -> tuple[str, ...]:
    """Runs with equal values have equal fingerprints, unless the data have changed."""
    of_data = (str(run.flags.get(name, "")) for name in _OF_TRAINING_DATA)
    return (*run.compared_by.values(), *of_data)


def groups_of(folder: Path, runs: FoundRuns) -> tuple[list[Group], str]:
    """The choices below a folder, and the label of the metric that the runs were selected by."""
    finished = [found.summary for of in runs.by_choice.values() for found in of if found.summary]
    # An unfinished run does not record the judged slice of its data set.
    usual = selection_of(finished[0] if finished else {})
    groups = [
        _group(choice, runs.data[choice], folder, found, usual)
        for choice, found in runs.by_choice.items()
    ]
    return groups, _common_label([selection_of(summary) for summary in finished] or [usual])


def _common_label(selections: Sequence[Selection]) -> str:
    """The label of all selections, without the slice of the targets if that differs."""
    for found in (selections, [selection._replace(slice="auto") for selection in selections]):
        if len(set(found)) == 1:
            return found[0].label
    return "value of --select"


def _read(path: Path) -> Found:
    """Raises InputError with the name of the file if a file is damaged or of another kind."""
    run = RunDirectory.open(path)
    config = run.read_config()
    summary = run.read_summary() if run.has_results() else {}
    evaluated = (path / METRICS).exists()
    if summary and not evaluated:
        raise InputError(f"{path / METRICS}: missing, though the run has finished")
    metrics = run.read_metrics() if evaluated else []
    if summary and not _is_of_a_run(summary):
        raise InputError(f"{path / SUMMARY}: not the summary of a run")
    return Found(path, config, summary, metrics)


def _is_of_a_run(summary: Mapping[str, Any]) -> bool:
    """Whether the parts of a summary that the pages read have their form."""
    parts = [summary.get("valid"), summary.get("test", {})]
    parts += [part.get(name, {}) for part in parts if isinstance(part, dict) for name in SLICES[1:]]
    rounds = [summary.get(name) for name in ("selected_round", "rounds_run")]
    return all(map(_holds_numbers, parts)) and all(isinstance(n, int) for n in rounds)


def _holds_numbers(part: Any) -> bool:
    return isinstance(part, dict) and all(
        isinstance(value, int | float) for name, value in part.items() if "@" in name
    )


def _group(choice: str, data: str, folder: Path, found: Sequence[Found], usual: Selection) -> Group:
    finished = [of.summary for of in found if of.summary]
    curves = [_curve(of, usual) for of in found]
    ran = [of.summary.get("rounds_run") or _last_round(of.metrics) for of in found]
    return Group(
        label=choice.removeprefix(f"{found[0].data_name}/"),
        dataset=data,
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
