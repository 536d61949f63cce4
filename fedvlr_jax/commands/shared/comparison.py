"""Compares finished runs: means over seeds, intervals and paired tests over users."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table as PrintedTable
from rich.text import Text

from fedvlr_jax.commands.shared.finished import validation
from fedvlr_jax.commands.shared.page import PAGE, FoundRuns, folder_page
from fedvlr_jax.config import EvaluationConfig
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.baselines import Evaluate, evaluate_as_config
from fedvlr_jax.evaluation.metrics import slices, user_metrics
from fedvlr_jax.evaluation.selection import judged_slice
from fedvlr_jax.evaluation.significance import bootstrap_interval, holm, paired_test
from fedvlr_jax.privacy.statement import best_epsilon
from fedvlr_jax.report import RunDirectory, replace_file
from fedvlr_jax.report.folder import Table
from fedvlr_jax.selection import selection_of

# Baselines that these tables omit. The report of each run has them.
NOT_SHOWN = ("random", "least_popular", "ascending_id", "unseen_first")


# Facts of a baseline that its line has.
BASELINE_FACTS = ("title", "trained", "content", "settings_tried")

SHOWN_METRICS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20", "hr@50", "ndcg@50")


class Compared(NamedTuple):
    """Runs that differ only in their seed.

    Attributes:
      line: the values of their table line, percentages unrounded.
      ndcg: float64 [N], test NDCG@50 in [0, 1] on the judged slice, averaged over seeds;
        NaN for a user without a target in the slice.
    """

    line: dict[str, Any]
    ndcg: np.ndarray


def read_choice(label: str, folders: Sequence[Path], dataset: Dataset) -> Compared | None:
    """Compares the finished runs in the folders; None if no run has finished."""
    finished = [RunDirectory.open(f) for f in folders if (f / "summary.json").exists()]
    if not finished:
        return None
    summaries = [directory.read_summary() for directory in finished]
    users = [directory.read_users() for directory in finished]
    ranks = [_test_ranks(of_run, dataset) for of_run in users]
    compared = compare_summaries(label, summaries, ranks, dataset)
    compared.line["rounds"] = float(np.mean([s["selected_round"] for s in summaries]))
    spearman = [s["planted_spearman"] for s in summaries if s.get("planted_spearman")]
    if spearman:
        compared.line["spearman"] = {
            n: float(np.mean([s[n] for s in spearman])) for n in spearman[0]
        }
    return compared


def _test_ranks(users: Mapping[str, np.ndarray], dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(ahead, tied) int [P], in the order of the test part, from the arrays of users.npz."""
    ahead, tied = users["ahead"], users["tied"]
    if ahead.ndim == 2:
        # Earlier versions wrote [N, T], padded to the user with most targets.
        real = np.arange(ahead.shape[1]) < dataset.test.counts[:, None]
        ahead, tied = ahead[real], tied[real]
    return ahead, tied


# Note below every table of gains.
ON_GAINS = (
    "Gains: ± is the difference that the t-test detects in 80 % of repetitions; Holm is the p of "
    "t, corrected over the gains of the table. Runs with equal ranks count as one."
)


def different_runs(ranks: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[int]:
    """The first index of each different result: seeds of a deterministic run count as one."""
    first: dict[tuple[bytes, ...], int] = {}
    for place, found in enumerate(ranks):
        key = tuple(np.ascontiguousarray(array, np.int64).tobytes() for array in found)
        first.setdefault(key, place)
    return sorted(first.values())


def compare_summaries(
    label: str,
    summaries: Sequence[Mapping[str, Any]],
    ranks: Sequence[tuple[np.ndarray, np.ndarray]],
    dataset: Dataset,
) -> Compared:
    """Compares the runs of one choice over seeds. Runs with equal test ranks count once.

    Args:
      summaries: one per seed, with "valid" and "test".
      ranks: one (ahead, tied) of the test part per seed.
    """
    places = different_runs(ranks)
    judged = judged_slice(dataset)
    select = slices(dataset, "test")[judged]
    ndcg = [user_metrics(*ranks[p], dataset.test, select)["ndcg@50"] for p in places]
    return compared_runs(label, [summaries[p] for p in places], ndcg, judged)


def compared_runs(
    label: str,
    summaries: Sequence[Mapping[str, Any]],
    by_seed: Sequence[np.ndarray],
    judged: str,
) -> Compared:
    """The comparison of the runs of one choice, of which no two are equal.

    Args:
      summaries: one per seed, with "valid" and "test".
      by_seed: one per seed, test NDCG@50 of the users on the slice `judged`.
    """
    line: dict[str, Any] = {"choice": label, "seeds": len(summaries), "slice": judged}
    line["valid"] = float(np.mean([validation(s) for s in summaries]))
    line["select"] = str(selection_of(summaries[0]))
    for metric in SHOWN_METRICS:
        for name in ("all", "warm", "cold"):
            parts = [s["test"] if name == "all" else s["test"][name] for s in summaries]
            if all(metric in part for part in parts):
                values = [part[metric] for part in parts]
                line[f"{name}_{metric}"] = float(np.mean(values))
                line[f"{name}_{metric}_sd"] = float(np.std(values, ddof=min(1, len(values) - 1)))
    if stated := summaries[0].get("privacy"):
        line["epsilon"] = best_epsilon(stated["epsilon"]["spent"])
    ndcg = np.mean(np.asarray(by_seed, np.float64), axis=0)
    line["ci95"] = [100 * bound for bound in bootstrap_interval(ndcg)]
    return Compared(line, ndcg)


def read_baselines(
    dataset: Dataset, evaluation: EvaluationConfig, evaluate: Evaluate = evaluate_as_config
) -> list[Compared]:
    """The baselines of the data set without `NOT_SHOWN`, as choices with one seed."""
    results = evaluate(dataset, evaluation)
    found = []
    for name, ranks_of_parts in results.ranks.items():
        if name not in NOT_SHOWN:
            ranks = [(ranks_of_parts["test"].ahead, ranks_of_parts["test"].tied)]
            summary = results.summary[name]
            compared = compare_summaries(name, [summary], ranks, dataset)
            compared.line["baseline_of"] = {key: summary[key] for key in BASELINE_FACTS}
            found.append(compared)
    return found


def gain(compared: Compared, reference: Compared) -> dict[str, Any]:
    """The difference in NDCG@50 over the same users, in points and percent, and the p of the
    tests."""
    test = paired_test(compared.ndcg, reference.ndcg)
    return {
        "against": reference.line["choice"],
        "gain": 100 * test.mean_difference,
        "gain_relative": 100 * test.relative_difference,
        "p_value": test.p_value,
        "p_mean": test.p_mean,
        "detectable": 100 * test.detectable,
    }


def correct(gains: Sequence[dict[str, Any]]) -> None:
    """Adds "p_holm" to each dict of `gain`: the p of the t-test, corrected over all of them."""
    for entry, corrected in zip(gains, holm([e["p_mean"] for e in gains]), strict=True):
        entry["p_holm"] = corrected


def compare(
    groups: Mapping[str, Sequence[Path]], dataset: Dataset, baselines: Sequence[Compared] = ()
) -> list[dict[str, Any]]:
    """One line per label, tested against the first label. The best on validation is "chosen".

    Omits labels without a finished run. The baselines follow; they are never "chosen".
    """
    found = [read_choice(label, folders, dataset) for label, folders in groups.items()]
    choices = [compared for compared in found if compared is not None]
    return compare_with_first(choices, baselines) if choices else []


def compare_with_first(
    choices: Sequence[Compared], baselines: Sequence[Compared]
) -> list[dict[str, Any]]:
    """The lines of the choices and baselines, as `compare` returns them."""
    max(choices, key=lambda choice: choice.line["valid"]).line["chosen"] = True
    for compared in (*choices[1:], *baselines):
        compared.line.update(gain(compared, choices[0]))
    correct([compared.line for compared in (*choices[1:], *baselines)])
    return [compared.line for compared in (*choices, *baselines)]


# Heading of the second cell of gain_cells; see `significance.PairedTest`.
TESTS = "p: Wilcoxon / t / Holm"

HEADINGS = (
    "choice",
    "seeds",
    "validation",
    "HR@50",
    "NDCG@50",
    "warm HR@50",
    "warm NDCG@50",
    "NDCG@10",
    "NDCG@20",
    "95% CI",
    "against first",
    TESTS,
)


def mean_cell(line: Mapping[str, Any], name: str) -> str:
    """E.g. "23.10 ± 0.72", with one seed "23.10"; a dash if the line lacks the number."""
    if name not in line:
        return "-"
    spread = f" ± {line[f'{name}_sd']:.2f}" if line["seeds"] > 1 else ""
    return f"{line[name]:.2f}{spread}"


def metric_cells(line: Mapping[str, Any]) -> list[str]:
    """HR@50 and NDCG@50 of all and of warm targets, then NDCG@10 and @20 of the judged slice."""
    names = ("all_hr@50", "all_ndcg@50", "warm_hr@50", "warm_ndcg@50")
    judged = (f"{line['slice']}_ndcg@{k}" for k in (10, 20))
    return [mean_cell(line, name) for name in (*names, *judged)]


def name_cell(line: Mapping[str, Any]) -> str:
    """The choice, with * if validation chose it, and with the epsilon of a private run.

    A baseline has its full name and its kind.
    """
    if (kind := line.get("baseline_of")) is None:
        private = f" (epsilon {line['epsilon']:.4g})" if line.get("epsilon") else ""
        return line["choice"] + private + (" *" if line.get("chosen") else "")
    content = ", content-aware" if kind["content"] else ""
    tried = f", {kind['settings_tried']} settings" if kind["settings_tried"] > 1 else ""
    return f"{kind['title']} [{kind['trained']}{content}{tried}]"


def gain_cells(line: Mapping[str, Any]) -> list[str]:
    """Two cells of `gain`: the gain with the detectable difference, and the p of the tests.

    Dashes if the line has no gain, or no user has a target in both.
    """
    if "gain" not in line or not math.isfinite(line["gain"]):
        return ["-", "-"]
    power, relative = line["detectable"], line["gain_relative"]
    return [
        f"{line['gain']:+.2f}"
        + (f" ± {power:.2f}" if math.isfinite(power) else "")
        + (f" ({relative:+.0f}%)" if math.isfinite(relative) else ""),
        f"{line['p_value']:.2g} / {line['p_mean']:.2g} / {line['p_holm']:.2g}",
    ]


def interval_cell(line: Mapping[str, Any]) -> str:
    """E.g. "20.10–24.30"; a dash if no user has a target."""
    low, high = line["ci95"]
    return f"{low:.2f}–{high:.2f}" if math.isfinite(low) else "-"


def _columns_shown(lines: Sequence[Mapping[str, Any]]) -> list[int]:
    """The indices of the HEADINGS to show: without cold targets, those of warm ones repeat all."""
    warm = any(line["slice"] == "warm" for line in lines)
    return [place for place, name in enumerate(HEADINGS) if warm or not name.startswith("warm")]


def cells(line: Mapping[str, Any]) -> list[str]:
    """The cells of a choice, under HEADINGS. A line with a "dataset" has it before its name."""
    data = f"{line['dataset']}: " if "dataset" in line else ""
    return [
        data + name_cell(line),
        str(line["seeds"]),
        f"{line['valid']:.2f}",
        *metric_cells(line),
        interval_cell(line),
        *gain_cells(line),
    ]


def write_comparison(
    lines: list[dict[str, Any]],
    stem: Path,
    title: str,
    labels: Iterable[str] = (),
    runs: FoundRuns | None = None,
) -> None:
    """Prints the lines of `compare`, and writes them as `write_table` does.

    The caption names those of the `labels` that have no line.
    """
    judged, rules = ({line[name]: None for line in lines} for name in ("slice", "select"))
    caption = (
        f"Test part, percent, mean ± sd over seeds; NDCG@10 and @20, interval and tests (NDCG@50) "
        f"on {' or '.join(judged)} targets; * best on validation ({', '.join(rules)}). To compare "
        f"a mean over seeds with a single run, use t. {ON_GAINS}"
    )
    finished = {line["choice"] for line in lines}
    missing = [label for label in labels if label not in finished]
    if missing:
        caption += f" Without a finished run: {', '.join(missing)}."
    shown = _columns_shown(lines)
    headings = [HEADINGS[place] for place in shown]
    found = [cells(line) for line in lines]
    rows = [[row[place] for place in shown] for row in found]
    write_table(headings, rows, lines, stem, title, caption, runs)


def write_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    lines: list[dict[str, Any]],
    stem: Path,
    title: str,
    caption: str,
    runs: FoundRuns | None = None,
) -> None:
    """Prints a table and writes it to stem.md, and its numbers to stem.json and stem.csv.

    index.html in the same folder shows the table and the runs below the folder.

    Args:
      runs: the runs below the folder; None: read them.
    """
    print_table(headings, rows, title, caption)
    markdown = [f"| {' | '.join(row)} |" for row in (headings, *rows)]
    markdown.insert(1, "|---" * len(headings) + "|")
    write_text(stem.with_suffix(".md"), f"{title}\n\n" + "\n".join(markdown) + f"\n\n{caption}\n")
    write_text(stem.with_suffix(".json"), json.dumps(_strict(lines), indent=2, allow_nan=False))
    write_text(stem.with_suffix(".csv"), pd.json_normalize(lines).to_csv(index=False))
    files = [f"{stem.name}{end}" for end in (".md", ".json", ".csv")]
    page = folder_page(stem.parent, Table(title, headings, rows, caption), lines, files, runs)
    write_text(stem.parent / PAGE, page)
    print(f"page: {stem.parent / PAGE}\ntable: {stem}.md, .json, .csv")


def _strict(value: Any) -> Any:
    """The same value with None for numbers that are not finite; JSON has none."""
    if isinstance(value, Mapping):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Width without a terminal.
PRINTED_WIDTH = 80
# Maximum width of the first column, which every part of a broken table repeats. Folds longer names.
NAME_WIDTH = 28


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], title: str, caption: str
) -> None:
    """Prints a table at the width of the terminal, or of 80 columns.

    It breaks a wider table between columns. Each part repeats the first column.
    """
    console = Console()
    width = console.width if console.is_terminal else PRINTED_WIDTH
    console = Console(width=width)
    console.print(title, style="italic", markup=False, highlight=False)
    for columns in _column_parts(headings, rows, width):
        table = PrintedTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for place in (0, *columns):
            justify: Any = "right" if place else "left"
            most = None if place else NAME_WIDTH
            table.add_column(headings[place], justify=justify, max_width=most, overflow="fold")
        for row in rows:
            table.add_row(*(Text(row[place]) for place in (0, *columns)))
        console.print(table)
    console.print(caption, markup=False, highlight=False)


def _column_parts(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> list[list[int]]:
    """The indices of the columns of each part, in order, without the first column."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    # Two spaces separate columns.
    first = min(widths[0], NAME_WIDTH)
    parts: list[list[int]] = [[]]
    used = first
    for place, wide in enumerate(widths[1:], 1):
        if parts[-1] and used + wide + 2 > width:
            parts.append([])
            used = first
        parts[-1].append(place)
        used += wide + 2
    return parts


def write_text(path: Path, text: str) -> None:
    """Writes the whole file or nothing. Raises InputError if the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode())
    except OSError as error:
        raise InputError(f"--workdir: {path} cannot be written: {error.strerror}") from None
