"""Claims with their controls: what content, personal weights and federation are each worth.

    fedvlr ablation --dataset=KU --protocol=paper --workdir=runs/ablation

The method is --backbone with --fusion=bilevel and the other flags as given. Each of --claims is a
comparison with its controls, all seeds and everything else alike:
- content: with the mapped ID alone (the same map, no content), and with the feature rows permuted;
- personal: with one mixture of the same views for all clients, and with frozen uniform routers;
- federation: with local-only training (no server step), and with the centralized twin, VBPR, which
  learns from all histories in one place by the same features (tuned over nine settings);
- levels: with server fusion alone, with client refinement alone, and with neither;
- modalities: without the ID table, without each modality;
- operators: with one operator at a time (a router then has nothing to choose).

Each gain of the method over a control has two paired tests over users, seeds averaged: Wilcoxon's
and a t-test, the latter also corrected by Holm over the table. Beside it stands the difference that
the test would have seen in 80 % of repetitions: "no difference" means none as large. Runs with
equal ranks, as those of a deterministic method, count as one.

--workdir then holds ablation.json, .csv, .md and .svg, and a run directory a run; nothing that is
finished is trained again. On two cores KU takes about five minutes.
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
from fedvlr_jax.commands.shared.comparison import (
    ON_GAINS,
    TESTS,
    Compared,
    correct,
    gain,
    gain_cells,
    metric_cells,
    read_choice,
    write_table,
    write_text,
)
from fedvlr_jax.commands.shared.launch import config_from_flags
from fedvlr_jax.commands.shared.members import (
    Choice,
    Member,
    define_member_flags,
    parse_seeds,
    train_waiting,
)
from fedvlr_jax.commands.shared.runs import load, required_workdir
from fedvlr_jax.config import Config, check_choice
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.model import identity_view
from fedvlr_jax.fusion.operators import OPERATORS
from fedvlr_jax.report import locked
from fedvlr_jax.report.plots import interval_bars

FLAGS = flags.FLAGS

METHOD: Choice = (("fusion", "bilevel"),)
CLAIMS = ("content", "personal", "federation", "levels", "modalities", "operators")
DEFAULT_CLAIMS = CLAIMS[:3]
TWIN = "centralized twin (VBPR)"


def controls(base: Config, modalities: tuple[str, ...]) -> dict[str, dict[str, Choice]]:
    """{claim: {control: the flags that make it of `base`}}; the twin has no flags.

    Raises:
      InputError: the data set has no modality.
    """
    if not modalities:
        raise InputError(
            f"--dataset={base.data.dataset}: has no item features, so that no claim about content "
            "or fusion has a control"
        )
    identity, start = identity_view(base), base.init.init
    views = (identity, *modalities)
    # The table of --init=ease holds content, unless its weight is 0.
    no_content = (("init_content", 0.0),) if start == "ease" else ()
    # An operator hides the rows that a start in closed form gives.
    no_start = () if start == "random" else (("start", "random"),)
    without = lambda name: ",".join(view for view in views if view != name)
    # What learns from all clients before the first round is not local.
    local = (("server_optimizer", "none"), ("start", "random"), ("init_router", "uniform"))
    return {
        "content": {
            "the ID alone": (*METHOD, ("views", identity), *no_content),
            "permuted feature rows": (*METHOD, ("permute_features", 1)),
        },
        "personal": {
            "one shared mixture": (("fusion", "shared"), ("init_router", "uniform")),
            "frozen uniform routers": (*METHOD, ("router_lr", 0.0), ("init_router", "uniform")),
        },
        "federation": {"local only": (*METHOD, *local), TWIN: ()},
        "levels": {
            # Uniform weights: the server's operators learn, the clients do not choose.
            "server fusion alone": (*METHOD, ("router_lr", 0.0), ("init_router", "uniform")),
            # The operators stay as they were drawn: only the clients' weights learn.
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
    """One run of the method or of a control; each seed permutes the feature rows in its own way."""
    folder = Path(base.workdir) / name.replace(" ", "-")
    values = {**dict(choice), "seed": seed, "workdir": str(folder / f"seed{seed}")}
    if values.get("permute_features"):
        values["permute_features"] = seed + 1
    return Member(choice, Config.from_flat(**{**base.flat, **values}))


def train_all(
    base: Config, chosen: Mapping[str, Choice], dataset: Dataset, seeds: Sequence[int]
) -> dict[str, Compared]:
    """The method and its controls, trained where they are not, by name; what diverged is absent."""
    groups = {
        name: [make_member(base, name, choice, seed) for seed in seeds]
        for name, choice in chosen.items()
        if name != TWIN
    }
    train_waiting([member for group in groups.values() for member in group])
    folders = {name: [member.directory for member in group] for name, group in groups.items()}
    if TWIN in chosen:
        own = dataclasses.replace(base.run, workdir=str(Path(base.workdir) / "twin"))
        twin = CentralizedConfig(model="vbpr", width=base.model.width)
        twin_base = dataclasses.replace(base, run=own)
        runs, _ = centralized.run_model(twin_base, twin, dataset, list(seeds), tune=True)
        folders[TWIN] = [run.directory for run in runs]
    found = {name: read_choice(name, of_name, dataset) for name, of_name in folders.items()}
    return {name: compared for name, compared in found.items() if compared is not None}


def claim_lines(
    found: Mapping[str, Compared], of_claim: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """A line for the method, then one for each claim and control, with the gain over it."""
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
    dataset = load(base)
    of_claim = controls(base, tuple(dataset.features))
    chosen: dict[str, Choice] = {"the method": METHOD}
    for claim in claims:
        chosen |= of_claim[claim]
    with locked(base.workdir):
        found = train_all(base, chosen, dataset, seeds)
        if "the method" not in found:
            raise InputError("no run of the method finished; lower the step sizes")
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
        write_table(HEADINGS, rows, lines, folder / "ablation", title, caption)
        judged = lines[0]["slice"]
        bars = [(line["choice"], line[f"{judged}_ndcg@50"], line["ci95"]) for line in lines]
        figure = interval_bars(f"{title}: {judged} NDCG@50", bars)
        write_text(folder / "ablation.svg", figure)
        Console().print(f"{folder / 'ablation.md'}: {len(lines) - 1} comparisons", highlight=False)


def define_flags() -> None:
    """Defines the flags of this command."""
    define_member_flags(overruled=("fusion", "baselines", "permute_features"))
    flags.DEFINE_string("claims", ",".join(DEFAULT_CLAIMS), f"Of {', '.join(CLAIMS)}.")
