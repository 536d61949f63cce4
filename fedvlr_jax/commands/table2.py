"""Reproduces the paper's Table 2 on your data: all methods, tuned alike, with paired tests.

    fedvlr table2 --dataset=KU,ML --protocol=paper --workdir=runs/table2

A method is BACKBONE+FUSION, BACKBONE+FUSION+local (no server step), fedavg+FUSION+groups (GFMFR:
tuned item rows, and five groups of clients), or a centralized model (vbpr, bm3, mgcn, pgl, sasrec).
--methods selects methods; by default all but sasrec, which needs times. The command tunes each
method: it tries nine settings with the first seed, selects one on validation (--select), and trains
it with all seeds. Flags of fedvlr train set the rest. A flag of the table below that is given keeps
its value and is not tuned, so these methods have fewer settings. The baselines, with nine settings
each, are in the same table.

| methods | tuned |
|---|---|
| federated | server_lr_items, server_decay |
| local | client_lr, client_decay |
| centralized | learning rate, one weight of the loss (sasrec: dropout) |

The table compares every method with its backbone without fusion and with the best baseline (or
centralized model) by validation: gain in points and percent, Wilcoxon and t-tests over users,
averaged over seeds. If a data set has cold targets, the tests use the warm targets.

The command writes table2.json, .csv and .md, tuning.json (all tried settings), table2-DATASET.svg
and one run directory per run into --workdir. When it is repeated, it skips finished runs. Minutes
per method on two cores (all of KU: about 20):

| | FedAvg, FCF | PFedRec | FedRAP | FedNCF | centralized |
|---|---|---|---|---|---|
| KU | 0.5 | 0.5 | 1 | 2 | 0.5 |
| ML | 4 | 15 | 15 | 45 | |
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from fedvlr_jax.centralized import CENTRALIZED, CentralizedConfig
from fedvlr_jax.commands import centralized
from fedvlr_jax.commands.launching.config_flags import config_from_flags, is_given, note_unused
from fedvlr_jax.commands.members import (
    Choice,
    Member,
    make_member,
    parse_seeds,
    train_waiting,
    tuned,
)
from fedvlr_jax.commands.one_run.runs import load, required_workdir
from fedvlr_jax.commands.tables.comparison import (
    Compared,
    correct,
    gain,
    read_baselines,
    read_choice,
)
from fedvlr_jax.commands.tables.comparison_table import (
    ON_GAINS,
    TESTS,
    gain_cells,
    interval_cell,
    metric_cells,
    name_cell,
    named_intervals,
)
from fedvlr_jax.commands.tables.tables import write_table, write_text
from fedvlr_jax.config import BACKBONE_NAMES, FUSION_NAMES, Config, check_choice
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import locked
from fedvlr_jax.report.folder import Table
from fedvlr_jax.report.study_plots import interval_bars

FLAGS = flags.FLAGS

Grid = Mapping[str, tuple[float, ...]]
# Nine settings, as for a centralized model. The server's options affect every federated method;
# without a server step only the client's options do.
GRID: Grid = {"server_lr_items": (0.02, 0.05, 0.1), "server_decay": (2.0, 5.0, 10.0)}
LOCAL_GRID: Grid = {"client_lr": (1.0, 3.0, 10.0), "client_decay": (0.005, 0.02, 0.08)}
# The flags of a method's last part.
VARIANTS: Mapping[str, Choice] = {
    "": (),
    "local": (("server_optimizer", "none"),),
    "groups": (("fedavg_rows", "tuned"), ("groups", 5)),
}


@dataclasses.dataclass(frozen=True)
class Method:
    """One of --methods: the flags of a federation, or a centralized model (no flags)."""

    name: str
    flags: Choice

    @property
    def vanilla(self) -> str:
        """The name of the same backbone without fusion; of a centralized model its own name."""
        return f"{dict(self.flags)['backbone']}+none" if self.flags else self.name


def parse_method(name: str) -> Method:
    """The method of this name. Raises InputError if there is none."""
    if name in CENTRALIZED:
        return Method(name, ())
    backbone, _, rest = name.partition("+")
    fusion, _, variant = rest.partition("+")
    check_choice("methods", backbone, (*CENTRALIZED, *BACKBONE_NAMES))
    check_choice("methods", fusion, FUSION_NAMES)
    if variant not in VARIANTS:
        raise InputError(
            f"--methods={name}: give e.g. fcf+bilevel, fcf+bilevel+local, fedavg+none+groups or "
            "vbpr"
        )
    return Method(name, (("backbone", backbone), ("fusion", fusion), *VARIANTS[variant]))


def settings_of(grid: Grid) -> list[Choice]:
    return [tuple(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def with_given(grid: Grid, base: Config) -> Grid:
    """`grid` with the value of `base` alone for each flag that the command line gives."""
    return {name: (base.flat[name],) if is_given(name) else grid[name] for name in grid}


def run_method(
    method: Method, base: Config, dataset: Dataset, seeds: list[int]
) -> tuple[Compared | None, list[dict[str, Any]]]:
    """Tunes and trains one method on one data set; (its results or None, the tried settings)."""
    workdir = str(Path(base.workdir) / dataset.name / method.name)
    base = base.changed(**dict(method.flags), workdir=workdir)
    if method.flags:
        make = lambda choice, seed: make_member(base, choice, seed)
        local = base.federation.server_optimizer == "none"
        choices = settings_of(with_given(LOCAL_GRID if local else GRID, base))
        members: list[Member]
        members, tried = tuned(choices, seeds, make, train_waiting)
        folders = [member.directory for member in members]
    else:
        model = CentralizedConfig(model=method.name, width=base.resolved.model.width)
        runs, tried = centralized.run_model(base, model, dataset, seeds, tune=True)
        folders = [run.directory for run in runs]
    return read_choice(method.name, folders, dataset), tried


def table_of(
    dataset: Dataset, base: Config, methods: list[Method], seeds: list[int]
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """(lines of one data set, {method: its tried settings}); the gains have no "p_holm" yet."""
    console = Console()
    baselines = read_baselines(dataset, base.evaluation)
    found: dict[str, Compared] = {}
    tuning = {}
    for method in methods:
        if "groups" in dict(method.flags) and not dataset.features:
            console.print(
                f"{dataset.name}: {method.name} needs features; left out", highlight=False
            )
            continue
        console.print(f"[bold]{dataset.name}: {method.name}[/]", highlight=False)
        compared, tuning[method.name] = run_method(method, base, dataset, seeds)
        if compared is not None:
            found[method.name] = compared
    pooled = [found[m.name] for m in methods if m.name in found and not m.flags]
    best = max((*baselines, *pooled), key=lambda compared: compared.line["valid"])
    for method in methods:
        if method.name not in found:
            continue
        compared = found[method.name]
        if method.vanilla != method.name and method.vanilla in found:
            compared.line["vanilla"] = gain(compared, found[method.vanilla])
        if compared is not best:
            compared.line["baseline"] = gain(compared, best)
    lines = [compared.line for compared in (*baselines, *found.values())]
    return [{"dataset": dataset.name, **line} for line in lines], tuning


def gains_of(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The gains of all lines of the table, of all its data sets."""
    return [line[kind] for line in lines for kind in ("vanilla", "baseline") if kind in line]


HEADINGS = (
    *("data", "method", "seeds", "validation", "HR@50", "NDCG@50", "warm HR@50", "warm NDCG@50"),
    *("NDCG@10", "NDCG@20", "95% CI", "against none", TESTS, "against best baseline", TESTS),
)


def cells(line: Mapping[str, Any]) -> list[str]:
    """A line under HEADINGS."""
    return [
        line["dataset"],
        name_cell(line),
        str(line["seeds"]),
        f"{line['valid']:.2f}",
        *metric_cells(line),
        interval_cell(line),
        *gain_cells(line.get("vanilla", {})),
        *gain_cells(line.get("baseline", {})),
    ]


def main() -> None:
    methods = [parse_method(name.strip()) for name in FLAGS.methods.split(",")]
    seeds = parse_seeds(FLAGS.seeds)
    # The baselines are evaluated once per data set, not once per run.
    base = config_from_flags(baselines=False)
    folder = required_workdir(base, "runs/table2")
    for flag in {**GRID, **LOCAL_GRID}:
        if is_given(flag):
            Console().print(f"--{flag} is given, so it is not tuned", highlight=False)
    names = [name.strip() for name in base.data.dataset.split(",")]
    federated = [dict(method.flags) for method in methods if method.flags]
    note_unused(
        *(base.changed(dataset=name, **own) for name in names for own in federated or [{}]),
        used=("tune_baselines",),
    )
    lines: list[dict[str, Any]] = []
    tuning = {}
    with locked(base.workdir):
        for name in names:
            config = base.changed(dataset=name)
            dataset = load(config)
            of_dataset, tuning[dataset.name] = table_of(dataset, config, methods, seeds)
            lines += of_dataset
            correct(gains_of(lines))
            title = f"{dataset.name}, {of_dataset[0]['slice']} targets: test NDCG@50"
            figure = interval_bars(title, named_intervals(of_dataset))
            write_text(folder / f"table2-{dataset.name}.svg", figure)
            write_text(folder / "tuning.json", json.dumps(tuning, indent=2))
            caption = (
                f"Protocol {base.evaluation.protocol}, test part, percent, mean ± sd over seeds "
                f"{FLAGS.seeds}. Interval, gains in points (percent) and p: NDCG@50 of the warm "
                f"targets if a data set has cold ones, else of all. {ON_GAINS}"
            )
            rows = [cells(line) for line in lines]
            write_table(Table("Table 2", HEADINGS, rows, caption), lines, folder / "table2")
