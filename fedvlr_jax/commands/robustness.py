"""Measures attacks of hostile clients against aggregation rules, and the accuracy of each rule.

    fedvlr robustness --dataset=KU --seeds=0 --workdir=runs/robustness

The command trains every combination of --attacks, --rules, --shares (hostile clients per honest
client) and --targets (cold, popular) for all --seeds. A rule is a value of --aggregation, or
client_terms: the mean, and the terms of --defense_similarity and --defense_distance in the clients'
loss. Every seed has its own targets, hostile histories and public interactions. The attack "honest"
adds as many clients without an attack: compare the other rows with it. Each run has a run directory
in --workdir. When the command is repeated, it skips finished runs.

robustness.json, .csv and .md have one line per combination, after the last round. ER@10 is the
share of honest users with a target item among their ten best items, of those who do not already
have it; tied items share their places. Its interval is the range over seeds; for one seed it is
Wilson's 95 % interval over users. HR@50 and NDCG@50 are those of the honest users, of the slice of
their targets that --select names; they are empty if no honest user has a target.
robustness-SHARE-TARGETS.svg shows ER@10 by attack and rule.

Flags of fedvlr train set the rest. The defaults here have a plain server step
(--server_optimizer=sgd), as in the papers of the attacks, and no early stop. On two cores all
attacks and rules on KU take half an hour.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from fedvlr_jax.commands.flags.robustness import ATTACKS, CLIENT_TERMS, DEFENSES
from fedvlr_jax.commands.launching.config_flags import config_from_flags, note_no_effect
from fedvlr_jax.commands.members import (
    Choice,
    Member,
    make_member,
    note_unused_by,
    parse_seeds,
    train_waiting,
)
from fedvlr_jax.commands.one_run.runs import required_workdir
from fedvlr_jax.commands.tables.tables import write_table, write_text
from fedvlr_jax.config import Config, DefenseConfig, check_choice
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import RunDirectory, locked
from fedvlr_jax.report.folder import Table
from fedvlr_jax.report.heat import heat_table
from fedvlr_jax.selection import Selection, selection_of

FLAGS = flags.FLAGS

TARGETS = ("cold", "popular")
# Metrics at 50 of the honest users, and their digits in the table.
METRICS = {"hr": 1, "ndcg": 2}
HEADINGS = (
    *("attack", "rule", "hostile per honest", "targets", "seeds"),
    *("ER@10", "interval", "HR@50", "NDCG@50"),
)


def parse_names(flag: str, text: str, known: Sequence[str]) -> list[str]:
    """The comma-separated names; InputError for an unknown or repeated name."""
    names = text.split(",")
    for name in names:
        check_choice(flag, name, tuple(known))
    if len(set(names)) != len(names):
        raise InputError(f"--{flag}={text}: give each name once")
    return names


def parse_shares(text: str) -> list[float]:
    """[0.01, 0.05] of "0.01,0.05"."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or len(set(shares)) != len(shares) or not all(0 < s <= 1 for s in shares):
        raise InputError(f"--shares={text}: give different shares above 0, at most 1")
    return shares


def make_cell(base: Config, choice: Choice, seeds: Sequence[int]) -> list[Member]:
    """The members of one combination, one per seed.

    The seed is added to --attack_seed, so every seed has other targets and hostile histories.
    """
    first = base.attack.attack_seed
    own = lambda seed: base.changed(attack_seed=first + seed)
    return [make_member(own(seed), choice, seed) for seed in seeds]


def make_cells(base: Config) -> list[list[Member]]:
    """One `make_cell` per combination.

    Raises:
      InputError: a rule does not withstand a share.
    """
    grid = itertools.product(
        parse_names("attacks", FLAGS.attacks, ATTACKS),
        parse_names("rules", FLAGS.rules, DEFENSES),
        parse_shares(FLAGS.shares),
        parse_names("targets", FLAGS.targets, TARGETS),
    )
    seeds = parse_seeds(FLAGS.seeds)
    return [make_cell(*with_defense(base, *values), seeds) for values in grid]


def with_defense(
    base: Config, attack: str, rule: str, share: float, targets: str
) -> tuple[Config, Choice]:
    """(the flags of a combination, those that name it): `rule` is a name of DEFENSES.

    --defense_* hold for "client_terms" only.
    """
    own: dict[str, Any] = {"attack": attack, "aggregation": rule}
    own |= {"hostile_share": share, "target_items": targets}
    none = DefenseConfig()
    if rule == CLIENT_TERMS:
        if not base.defense.active:
            raise InputError(
                f"--rules: {CLIENT_TERMS} needs --defense_similarity or --defense_distance above 0"
            )
        own |= {"aggregation": "float32", **dataclasses.asdict(base.defense)}
    return dataclasses.replace(base, defense=none), tuple(own.items())


def note_unused_terms() -> None:
    """Prints one line for each given --defense_* if no rule uses them."""
    if CLIENT_TERMS not in FLAGS.rules.split(","):
        terms = [field.name for field in dataclasses.fields(DefenseConfig)]
        note_no_effect(terms, f"--rules={FLAGS.rules} does not name {CLIENT_TERMS}")


def wilson(share: float, count: float) -> list[float]:
    """The 95 % interval of a share of `count` users (Wilson 1927); 0 to 1 without users."""
    if not count:
        return [0.0, 1.0]
    z = 1.959964
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    spread = math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    half = z * spread / (1 + z**2 / count)
    return [max(0.0, centre - half), min(1.0, centre + half)]


def line_of(members: Sequence[Member]) -> dict[str, Any] | None:
    """The line of one combination; None if no seed has finished (all diverged)."""
    finished = [m for m in members if (m.directory / "summary.json").exists()]
    if not finished:
        return None
    summaries = [RunDirectory.open(m.directory).read_summary() for m in finished]
    found = [summary["attack"] for summary in summaries]
    config = members[0].config
    rule = CLIENT_TERMS if config.defense.active else config.federation.aggregation
    line: dict[str, Any] = {**dict(members[0].choice), "rule": rule, "seeds": len(found)}
    for name in ("er@5", "er@10", "er@20"):
        line[name] = float(np.mean([f[name] for f in found]))
    line["er@10_by_seed"] = by_seed = [f["er@10"] for f in found]
    several = [min(by_seed), max(by_seed)]
    line["interval"] = several if len(found) > 1 else wilson(by_seed[0], found[0]["users"])
    line["slice"] = selection_of(summaries[0]).slice
    for name in METRICS:
        judged = Selection(line["slice"], name, 50)
        values = [value for f in found if (value := judged.value(f["test"])) is not None]
        line[f"{name}@50"] = float(np.mean(values)) if values else None
    line["targets_by_seed"] = [f["targets"] for f in found]
    return line


def row_of(line: dict[str, Any]) -> list[str]:
    """The line, under HEADINGS."""
    metrics = [(line[f"{name}@50"], digits) for name, digits in METRICS.items()]
    return [
        *(line["attack"], line["rule"], f"{line['hostile_share']:g}", line["target_items"]),
        *(str(line["seeds"]), f"{line['er@10']:.3f}"),
        "{:.2f}–{:.2f}".format(*line["interval"]),
        *("" if value is None else f"{value:.{digits}f}" for value, digits in metrics),
    ]


def write_plots(lines: Sequence[dict[str, Any]], folder: Path) -> None:
    """Writes one heat table for each share and kind of target."""
    kinds = sorted({(line["hostile_share"], line["target_items"]) for line in lines})
    for share, targets in kinds:
        here = [x for x in lines if (x["hostile_share"], x["target_items"]) == (share, targets)]
        attacks = list(dict.fromkeys(line["attack"] for line in here))
        rules = list(dict.fromkeys(line["rule"] for line in here))
        values = np.full((len(attacks), len(rules)), np.nan)
        for line in here:
            values[attacks.index(line["attack"]), rules.index(line["rule"])] = line["er@10"]
        title = f"ER@10, {targets} targets, {share:g} hostile clients per honest one"
        write_text(
            folder / f"robustness-{share:g}-{targets}.svg",
            heat_table(title, attacks, rules, values),
        )


def main() -> None:
    base = config_from_flags(baselines=False, patience=0)
    folder = required_workdir(base, "runs/robustness")
    cells = make_cells(base)
    with locked(base.workdir):
        members = [m for cell in cells for m in cell]
        note_unused_by(members)
        note_unused_terms()
        dataset = train_waiting(members, selects=False)[base.data]
        lines = [line for cell in cells if (line := line_of(cell)) is not None]
        if not lines:
            raise InputError("no run finished; lower --server_lr_items")
        title = f"{dataset.name}, {base.evaluation.protocol}: attacks and rules"
        judged = lines[0]["slice"]
        caption = (
            "ER@10: share of the honest users without a target who get it among their ten best "
            f"items. HR and NDCG: percent, {judged} targets of the honest users. All after round "
            f"{base.federation.rounds}. "
            f"{len(cells) - len(lines)} of {len(cells)} combinations diverged."
        )
        rows = [row_of(line) for line in lines]
        table = Table(title, HEADINGS, rows, caption, chosen=False)
        write_table(table, lines, folder / "robustness")
        write_plots(lines, folder)
