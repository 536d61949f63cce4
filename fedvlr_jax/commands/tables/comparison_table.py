"""The table of a comparison: the cells of its lines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedvlr_jax.commands.tables.page import FoundRuns
from fedvlr_jax.commands.tables.tables import write_table
from fedvlr_jax.report.folder import Table

# Note below every table of gains.
ON_GAINS = (
    "Gains: ± is the difference that the t-test detects in 80 % of repetitions; Holm is the p of "
    "t, corrected over the gains of the table. Runs with equal ranks count as one."
)

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
    return "{:.2f}–{:.2f}".format(*line["ci95"]) if line["ci95"] else "-"


def named_intervals(
    lines: Sequence[Mapping[str, Any]],
) -> list[tuple[str, float, Sequence[float]]]:
    """(choice, NDCG@50 of the judged slice, interval) of each line whose slice has targets."""
    return [
        (line["choice"], line[f"{line['slice']}_ndcg@50"], line["ci95"])
        for line in lines
        if line["ci95"]
    ]


def _columns_shown(lines: Sequence[Mapping[str, Any]]) -> list[int]:
    """The indices of the HEADINGS to show. Without cold targets "warm" would repeat "all"."""
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
    several = any(line["seeds"] > 1 for line in lines)
    use_t = "To compare a mean over seeds with a single run, use t. " * several
    caption = (
        f"Test part, percent{', mean ± sd over seeds' * several}; NDCG@10 and @20, interval and "
        f"tests (NDCG@50) on {' or '.join(judged)} targets; * best on validation "
        f"({', '.join(rules)}). {use_t}{ON_GAINS}"
    )
    finished = {line["choice"] for line in lines}
    missing = [label for label in labels if label not in finished]
    if missing:
        caption += f" Without a finished run: {', '.join(missing)}."
    shown = _columns_shown(lines)
    headings = [HEADINGS[place] for place in shown]
    found = [cells(line) for line in lines]
    rows = [[row[place] for place in shown] for row in found]
    write_table(Table(title, headings, rows, caption), lines, stem, runs)
