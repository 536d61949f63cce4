"""Compares the method with controls for each claim, such as content, personal weights, federation.

    fedvlr ablation --dataset=KU --protocol=paper --workdir=runs/ablation

The method is --backbone with --fusion=bilevel and the other flags as given. Each of --claims
compares the method with controls that use the same seeds and flags:
- content: only the mapped ID (the same map without content); permuted feature rows;
- personal: one mixture of the same views for all clients; frozen uniform routers; with
  --init_router=history also frozen routers at the mean of the clients' estimates and, on
  synthetic data, at the planted weights;
- federation: local-only training (no server step); the centralized model VBPR, which sees all
  histories and the same features (tuned over nine settings);
- order: each user's train items in a permuted order; no use of the order (for --init=ease or
  --recency, which use it);
- levels: server fusion alone; client refinement alone; neither;
- modalities: without the ID table; without each modality;
- operators: one operator at a time, so that the router has no choice.

Each gain over a control has two paired tests over users, averaged over seeds: Wilcoxon and t. The
table also has the p of t corrected by Holm, and the difference that the t-test detects in 80 % of
repetitions; a smaller difference may exist without being detected. Runs with equal ranks (a
deterministic method) count as one.

The command writes ablation.json, .csv, .md and .svg, and one run directory per run, into --workdir.
When it is repeated, it skips finished runs. On two cores KU takes about five minutes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from fedvlr_jax.centralized import CentralizedConfig
from fedvlr_jax.commands import centralized
from fedvlr_jax.commands.flags.ablation import CLAIMS
from fedvlr_jax.commands.launching.config_flags import config_from_flags
from fedvlr_jax.commands.members import (
    Choice,
    Member,
    note_unused_by,
    parse_seeds,
    train_waiting,
)
from fedvlr_jax.commands.one_run.runs import load, required_workdir
from fedvlr_jax.commands.tables.comparison import Compared, correct, gain, read_choice
from fedvlr_jax.commands.tables.comparison_table import (
    ON_GAINS,
    TESTS,
    gain_cells,
    metric_cells,
    named_intervals,
)
from fedvlr_jax.commands.tables.tables import write_table, write_text
from fedvlr_jax.config import PERMUTATIONS, Config, check_choice
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.model import identity_view
from fedvlr_jax.fusion.operators import OPERATORS
from fedvlr_jax.report import locked
from fedvlr_jax.report.folder import Table
from fedvlr_jax.report.study_plots import interval_bars

FLAGS = flags.FLAGS

METHOD: Choice = (("fusion", "bilevel"),)
TWIN = "centralized twin (VBPR)"


def controls(
    base: Config, modalities: tuple[str, ...], planted: bool = False
) -> dict[str, dict[str, Choice]]:
    """{claim: {control: the flags that differ from `base`}}; the centralized control has none.

    Args:
      planted: the data set has planted weights.

    Raises:
      InputError: the data set has no modality.
    """
    if not modalities:
        raise InputError(
            f"--dataset={base.data.dataset}: has no item features, which the controls need; give a "
            "data set with features"
        )
    base = base.resolved
    identity, start = identity_view(base), base.init.init
    views = (identity, *modalities)
    # The ID table of --init=ease contains content, unless its weight is 0.
    no_content = (("init_content", 0.0),) if start == "ease" else ()
    unordered: Choice = (("recency", 0.0),) if base.data.recency else ()
    if start == "ease":
        unordered += (("init_recency", 0.0), ("init_transitions", 0.0))
    # A closed-form --init needs the ID table among the views, and an operator replaces it.
    no_start = () if start == "random" else (("init", "random"),)
    without = lambda name: ",".join(view for view in views if view != name)
    # A closed-form init uses the data of all clients, so local-only training cannot have it.
    local = (("server_optimizer", "none"), ("init", "random"), ("init_router", "uniform"))
    personal: dict[str, Choice] = {
        "one shared mixture": (("fusion", "shared"), ("init_router", "uniform")),
        "frozen uniform routers": (*METHOD, ("router_lr", 0.0), ("init_router", "uniform")),
    }
    if base.init.init_router == "history":
        # Better than uniform weights for every client alike, so not a personal gain.
        personal["frozen mean routers"] = (*METHOD, ("router_lr", 0.0), ("init_router", "mean"))
        if planted:
            # The weights that a perfect estimate would have. They need not be the best ones.
            true = (*METHOD, ("router_lr", 0.0), ("init_router", "planted"))
            personal["frozen planted routers"] = true
    return {
        "content": {
            "the ID alone": (*METHOD, ("views", identity), *no_content),
            "permuted feature rows": (*METHOD, ("permute_features", 1)),
        },
        "personal": personal,
        "federation": {"local only": (*METHOD, *local), TWIN: ()},
        "order": {
            "permuted order": (*METHOD, ("permute_order", 1)),
            "without order": (*METHOD, *unordered),
        },
        "levels": {
            # The server's operators learn; the client weights stay uniform.
            "server fusion alone": (*METHOD, ("router_lr", 0.0), ("init_router", "uniform")),
            # The operators keep their initial values; only the client weights learn.
            "client refinement alone": (*METHOD, ("server_lr_fusion", 0.0)),
            "neither": (("fusion", "none"),),
        },
        "modalities": {
            f"without {name}": (*METHOD, ("views", without(name)))
            for name in views
            if name != "table"
        },
        "operators": {f"only {name}": (*METHOD, ("views", name), *no_start) for name in OPERATORS},
    }


def make_member(base: Config, name: str, choice: Choice, seed: int) -> Member:
    """One run of the method or of a control. Each seed has its own permutation."""
    folder = Path(base.workdir) / name.replace(" ", "-")
    values = {**dict(choice), "seed": seed, "workdir": str(folder / f"seed{seed}")}
    for flag in PERMUTATIONS:
        if values.get(flag):
            values[flag] = seed + 1
    return Member(choice, base.changed(**values).resolved)


def train_all(
    base: Config, chosen: Mapping[str, Choice], dataset: Dataset, seeds: Sequence[int]
) -> dict[str, Compared]:
    """Trains the unfinished runs; the method and its controls by name, without diverged ones."""
    groups = {
        name: [make_member(base, name, choice, seed) for seed in seeds]
        for name, choice in chosen.items()
        if name != TWIN
    }
    members = [member for group in groups.values() for member in group]
    note_unused_by(members)
    train_waiting(members)
    folders = {name: [member.directory for member in group] for name, group in groups.items()}
    if TWIN in chosen:
        own = dataclasses.replace(base.run, workdir=str(Path(base.workdir) / "twin"))
        twin = CentralizedConfig(model="vbpr", width=base.resolved.model.width)
        twin_base = dataclasses.replace(base, run=own)
        runs, _ = centralized.run_model(twin_base, twin, dataset, list(seeds), tune=True)
        folders[TWIN] = [run.directory for run in runs]
    found = {name: read_choice(name, of_name, dataset) for name, of_name in folders.items()}
    return {name: compared for name, compared in found.items() if compared is not None}


def claim_lines(
    found: Mapping[str, Compared], of_claim: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """One line for the method, then one per claim and control, with the gain over the control."""
    method = found["the method"]
    lines: list[dict[str, Any]] = [{"claim": "", **method.line}]
    for claim, names in of_claim.items():
        for name in names:
            if name in found:
                own_gain = gain(method, found[name])
                lines.append({"claim": claim, **found[name].line, **own_gain, "against": name})
    correct(lines[1:])
    return lines


HEADINGS = (
    *("claim", "control", "runs", "HR@50", "NDCG@50", "warm HR@50", "warm NDCG@50"),
    *("NDCG@10", "NDCG@20", "gain of the method", TESTS),
)


def cells(line: Mapping[str, Any]) -> list[str]:
    """A line under HEADINGS."""
    claim = line["claim"] or "-"
    return [claim, line["choice"], str(line["seeds"]), *metric_cells(line), *gain_cells(line)]


def main() -> None:
    claims = [name.strip() for name in FLAGS.claims.split(",")]
    for name in claims:
        check_choice("claims", name, CLAIMS)
    seeds = parse_seeds(FLAGS.seeds)
    base = config_from_flags(fusion="bilevel", baselines=False)
    folder = required_workdir(base, "runs/ablation")
    if "order" in claims and base.resolved.init.init != "ease" and not base.data.recency:
        raise InputError(
            f"--claims=order: --init={base.resolved.init.init} without --recency does not use the "
            "order of a history; give --init=ease, or --recency"
        )
    dataset = load(base)
    of_claim = controls(base, tuple(dataset.features), dataset.planted is not None)
    chosen: dict[str, Choice] = {"the method": METHOD}
    for claim in claims:
        chosen |= of_claim[claim]
    with locked(base.workdir):
        found = train_all(base, chosen, dataset, seeds)
        if "the method" not in found:
            raise InputError("no run of the method finished; lower the learning rates")
        lines = claim_lines(found, {claim: list(of_claim[claim]) for claim in claims})
        missing = [name for name in chosen if name not in found]
        title = (
            f"{base.model.backbone} + bilevel on {dataset.name}, protocol "
            f"{base.evaluation.protocol}, seeds {FLAGS.seeds}"
        )
        caption = (
            f"Test part, percent; gains on NDCG@50 of {lines[0]['slice']} targets. {ON_GAINS}"
            + f" Without a finished run: {', '.join(missing)}." * bool(missing)
        )
        rows = [cells(line) for line in lines]
        write_table(Table(title, HEADINGS, rows, caption), lines, folder / "ablation")
        judged = lines[0]["slice"]
        figure = interval_bars(f"{title}: {judged} NDCG@50", named_intervals(lines))
        write_text(folder / "ablation.svg", figure)
        Console().print(f"{folder / 'ablation.md'}: {len(lines) - 1} comparisons", highlight=False)
