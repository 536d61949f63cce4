"""Trains the same federation over seeds and over values of any flags, and compares.

    python -m experiments.sweep --dataset=KU --protocol=paper --seeds=0,1,2,3,4 \\
        --over=fusion=none,mlp,bilevel --workdir=runs/fusions

Members whose shapes agree (other seeds, step sizes, decays) are trained in one compiled
program; the rest one after the other. Values are separated by commas, or by semicolons
where a value holds commas: --over="views=id;id,text,image". Several --over make a grid.

Each member leaves a run directory of its own below --workdir, and is not trained again when
the command is repeated. sweep.json, sweep.csv and sweep.md hold one line a choice: mean and
standard deviation over seeds, a 95% interval by bootstrap over users, and a paired Wilcoxon
test over users (seeds averaged) against the first choice. The choice to keep is the one with
the best mean validation NDCG@50; test numbers are for reading.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from absl import flags
from rich.console import Console
from rich.table import Table

from experiments.launch import config_from_flags, define_config_flags, launch
from experiments.train import FREE_FLAGS, describe, load
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.ensemble import NOT_FINITE, members_at_once, train_members
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import slices, user_metrics
from fedvlr_jax.evaluation.significance import bootstrap_interval, paired_test
from fedvlr_jax.memory import budget_bytes, check_fits
from fedvlr_jax.report import Progress, RunDirectory, render_report
from fedvlr_jax.simulation import Simulation, make_simulation
from fedvlr_jax.summary import summarise_baselines, summarise_run
from fedvlr_jax.types import Rates

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Member:
    """One run: `choice` are the swept flags' values, by name."""

    choice: tuple[tuple[str, Any], ...]
    config: Config

    @property
    def label(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.choice) or "default"

    @property
    def directory(self) -> Path:
        return Path(self.config.run.workdir)

    @property
    def program(self) -> Config:
        """Equal for members that one compiled program can train."""
        plain: dict[str, Any] = dict.fromkeys(Rates._fields, 0.0)
        federation = dataclasses.replace(self.config.federation, **plain)
        run = dataclasses.replace(self.config.run, seed=0, workdir="")
        return dataclasses.replace(self.config, federation=federation, run=run)


def parse_seeds(text: str) -> list[int]:
    """[0, 1, 2] of "0,1,2"."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) != len(seeds):
        raise InputError(f"--seeds={text}: give different whole numbers, e.g. 0,1,2,3,4")
    return seeds


def parse_over(text: str) -> list[tuple[str, Any]]:
    """[(flag, value), ...] of "flag=value,value"."""
    name, found, rest = text.partition("=")
    defaults = Config().flat
    if not found or name not in defaults or name in ("seed", "workdir", "overwrite"):
        raise InputError(f"--over={text}: give a flag to vary and its values, e.g. fusion=none,mlp")
    values = rest.split(";" if ";" in rest else ",")
    kind = type(defaults[name])
    try:
        parse = (lambda v: {"true": True, "false": False}[v]) if kind is bool else kind
        return [(name, parse(value)) for value in values]
    except (ValueError, KeyError):
        raise InputError(f"--over={text}: {name} takes {kind.__name__} values") from None


def make_members(base: Config, over: list[str], seeds: list[int]) -> list[Member]:
    """All combinations, seeds innermost."""
    members = []
    for choice in itertools.product(*(parse_over(text) for text in over)):
        folder = "-".join(f"{name}={value}".replace("/", "_") for name, value in choice)
        for seed in seeds:
            workdir = str(Path(base.workdir) / (folder or "default") / f"seed{seed}")
            values = {**base.flat, **dict(choice), "seed": seed, "workdir": workdir}
            members.append(Member(choice, Config.from_flat(**values)))
    return members


def is_done(member: Member, fingerprint: str) -> bool:
    """Whether the member's directory holds its finished run."""
    if not (member.directory / "summary.json").exists():
        return False
    saved = RunDirectory.open(member.directory).read_config()
    same = all(
        saved["flags"].get(name) == value
        for name, value in member.config.flat.items()
        if name not in FREE_FLAGS - {"rounds", "patience"}
    )
    return same and saved["dataset"]["fingerprint"] == fingerprint


def train_group(members: list[Member], simulation: Simulation, at_once: int) -> None:
    """Trains members of one program, and writes their run directories."""
    config = simulation.config
    console = Console()
    console.print(
        f"{members[0].label}: {len(members)} members, {at_once} at once, "
        f"{simulation.state_bytes / 1e6:.0f} MB each",
        markup=False,
        highlight=False,
    )
    with Progress(config.federation.rounds) as progress:

        def on_evaluation(runs, rounds_per_s):
            entries = [run.evaluations[-1] for run in runs if run.evaluations]
            if entries:
                names = ("hr@50", "ndcg@50")
                mean = {n: float(np.mean([e["valid"].get(n, 0.0) for e in entries])) for n in names}
                loss = float(np.mean([e["loss"] for e in entries]))
                progress.update(entries[0]["round"], loss, mean, None, rounds_per_s)

        runs, timing = train_members(
            simulation,
            [m.config.run.seed for m in members],
            [m.config.federation.rates for m in members],
            at_once=at_once,
            on_evaluation=on_evaluation,
        )
    baselines = summarise_baselines(simulation)
    for member, run in zip(members, runs, strict=True):
        if run.stopped == NOT_FINITE:
            console.print(f"{member.directory}: stopped at {NOT_FINITE}; left out", markup=False)
            continue
        seed = member.config.run.seed
        summary, users = summarise_run(simulation, run, timing, seed=seed, baselines=baselines)
        directory = RunDirectory.create(member.directory, overwrite=True)
        described = describe(member.config, simulation.dataset)
        directory.write_config(described)
        directory.write_metrics(run.evaluations)
        directory.write_users(users)
        directory.write_report(render_report(described, summary, list(run.evaluations), users))
        directory.write_summary(summary)


def compare(members: list[Member], dataset: Dataset) -> list[dict[str, Any]]:
    """One line a choice out of the members' run directories; the first choice first."""
    select = slices(dataset, "test")
    slice_name = "warm" if select["cold"].any() else "all"
    by_label: dict[str, list[Member]] = {}
    for member in members:
        if (member.directory / "summary.json").exists():
            by_label.setdefault(member.label, []).append(member)
    lines: list[dict[str, Any]] = []
    first: np.ndarray | None = None
    for label, group in by_label.items():
        summaries = [RunDirectory.open(m.directory).read_summary() for m in group]
        users = [RunDirectory.open(m.directory).read_users() for m in group]
        line: dict[str, Any] = {"choice": label, "seeds": len(group), "slice": slice_name}
        valid = [s["valid"]["ndcg@50"] for s in summaries]
        line["valid_ndcg@50"] = float(np.mean(valid))
        for metric in ("hr@50", "ndcg@50"):
            for name in ("all", "warm", "cold"):
                parts = [s["test"] if name == "all" else s["test"][name] for s in summaries]
                if all(metric in part for part in parts):
                    values = [part[metric] for part in parts]
                    line[f"{name}_{metric}"] = float(np.mean(values))
                    line[f"{name}_{metric}_sd"] = float(
                        np.std(values, ddof=min(1, len(values) - 1))
                    )
        each = [user_metrics(u["ahead"], u["tied"], select[slice_name]) for u in users]
        mean = np.mean([e["ndcg@50"] for e in each], axis=0)
        line["ci95"] = [100 * bound for bound in bootstrap_interval(mean)]
        line["rounds"] = float(np.mean([s["selected_round"] for s in summaries]))
        if first is None:
            first = mean
        else:
            test = paired_test(mean, first)
            line["gain"] = 100 * test.mean_difference
            line["gain_relative"] = 100 * test.relative_difference
            line["p_value"] = test.p_value
        spearman = [s["planted_spearman"] for s in summaries if s.get("planted_spearman")]
        if spearman:
            line["spearman"] = {n: float(np.mean([s[n] for s in spearman])) for n in spearman[0]}
        lines.append(line)
    if lines:
        max(lines, key=lambda line: line["valid_ndcg@50"])["chosen"] = True
    return lines


HEADINGS = (
    "choice",
    "seeds",
    "valid NDCG",
    "HR@50",
    "NDCG@50",
    "warm HR@50",
    "warm NDCG@50",
    "95% CI",
    "against first",
    "p",
)


def cells(line: dict[str, Any]) -> list[str]:
    """The line of a choice, under HEADINGS."""

    def number(name: str) -> str:
        if name not in line:
            return "-"
        return f"{line[name]:.2f} ± {line[f'{name}_sd']:.2f}"

    gain = p_value = "-"
    if "gain" in line:
        gain, p_value = (
            f"{line['gain']:+.2f} ({line['gain_relative']:+.0f}%)",
            f"{line['p_value']:.2g}",
        )
    return [
        line["choice"] + (" *" if line.get("chosen") else ""),
        str(line["seeds"]),
        f"{line['valid_ndcg@50']:.2f}",
        *(number(name) for name in ("all_hr@50", "all_ndcg@50", "warm_hr@50", "warm_ndcg@50")),
        "{:.2f}–{:.2f}".format(*line["ci95"]),
        gain,
        p_value,
    ]


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(text)
    os.replace(aside, path)


def write_tables(lines: list[dict[str, Any]], folder: Path, title: str) -> None:
    """Prints the comparison, and writes sweep.json, sweep.csv and sweep.md."""
    table = Table(title=title)
    for place, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if place else "left")
    for line in lines:
        table.add_row(*cells(line))
    table.caption = (
        f"Test part, percent, mean ± sd over seeds; interval and test on NDCG@50 of "
        f"{lines[0]['slice']} targets; * best on validation."
    )
    Console(width=160).print(table)
    rows = [f"| {' | '.join(row)} |" for row in (HEADINGS, *(cells(line) for line in lines))]
    rows.insert(1, "|---" * len(HEADINGS) + "|")
    _write(folder / "sweep.md", f"{title}\n\n" + "\n".join(rows) + f"\n\n{table.caption}\n")
    _write(folder / "sweep.json", json.dumps(lines, indent=2))
    _write(folder / "sweep.csv", pd.json_normalize(lines).to_csv(index=False))


def main() -> None:
    base = config_from_flags()
    if base.run.store != "device":
        raise InputError(
            f"--store={base.run.store}: members are trained together on the device; sweep with "
            "--store=device, or train each by experiments.train"
        )
    members = make_members(base, FLAGS.over, parse_seeds(FLAGS.seeds))
    datasets: dict[Any, Dataset] = {}
    groups: dict[Config, list[Member]] = {}
    for member in members:
        groups.setdefault(member.program, []).append(member)
        if member.config.data not in datasets:
            datasets[member.config.data] = load(member.config)
    for group in groups.values():
        dataset = datasets[group[0].config.data]
        waiting = [m for m in group if base.run.overwrite or not is_done(m, dataset.fingerprint)]
        if waiting:
            simulation = make_simulation(waiting[0].config, dataset)
            check_fits(simulation)
            at_once = members_at_once(simulation, len(waiting), budget_bytes(base))
            train_group(waiting, simulation, FLAGS.members_at_once or at_once)
    dataset = datasets[members[0].config.data]
    lines = compare(members, dataset)
    if not lines:
        raise InputError("no member finished; lower the step sizes")
    title = f"{dataset.name}, protocol {base.evaluation.protocol}, seeds {FLAGS.seeds}"
    write_tables(lines, Path(base.workdir), title)


if __name__ == "__main__":
    define_config_flags()
    flags.DEFINE_string("seeds", "0,1,2,3,4", "Seeds of each choice, comma-separated.")
    flags.DEFINE_multi_string("over", [], "A flag and the values it takes; may be repeated.")
    flags.DEFINE_integer(
        "members_at_once", 0, "Members side by side; 0: one on a CPU, else what memory takes."
    )
    launch(main, __doc__)
