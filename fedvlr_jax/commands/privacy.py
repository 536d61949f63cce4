"""Measures privacy attacks against each defence, and the accuracy that each defence costs.

    fedvlr privacy --synthetic_users=300 --rounds=20 --workdir=runs/att

The table has one line per defence and content, with these columns:

- content: "without" trains the ID table alone (--fusion=none); "with" trains images and text too,
  by --fusion and --views.
- sign, inversion, shadow: F1 of the client's positives. sign reads the sign of the item rows in the
  client's upload; inversion searches the history whose gradient is nearest to the upload; shadow
  compares the upload with those of a shadow client (IMIA). "chance" is the F1 of as many random
  items. With a secure sum the attacker sees only the sum of all uploads, and infers the same items
  for every client.
- features: inversion after the server sends one client the same row for every item, of length
  --feature_scale in every view (after RAIFLE). That client's upload then
  outweighs the others in a sum, and has one gradient for positives and another for negatives. The
  command repeats this for 50 clients.
- membership: area under the curve of the attack that infers whether a client took part, from the
  trained ID table and a shadow table trained on the other half of the clients. 0.5 is chance.
- HR@50 and NDCG@50 of the test part after training with the defence on all clients, and epsilon if
  the defence has one.

With --clip_norm=0 the bound is the median norm of the first round's uploads. The command writes
attacks.json, .csv, .md and .svg into --workdir.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from fedvlr_jax.commands.flags.privacy import CONTENTS
from fedvlr_jax.commands.launching.config_flags import config_from_flags, note_unused
from fedvlr_jax.commands.one_run.runs import load, required_workdir
from fedvlr_jax.commands.tables.tables import write_table, write_text
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import averages
from fedvlr_jax.privacy.attacks import (
    membership_auc,
)
from fedvlr_jax.privacy.calibration import resolved
from fedvlr_jax.privacy.statement import best_epsilon, statement
from fedvlr_jax.report.folder import Table
from fedvlr_jax.report.study_plots import attack_bars
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.simulation.curious_server import Defence, client_uploads, on_histories, trained

FLAGS = flags.FLAGS


def defences(bound: float, multiplier: float) -> list[Defence]:
    """The defences, with clipping at `bound` and noise of deviation `multiplier` times `bound`."""
    clip = {"clip_norm": bound, "aggregation": "fixed_mean"}
    noisy = clip | {"noise_multiplier": multiplier}
    return [
        Defence("none", {}),
        Defence("sampled negatives", {"negatives": "sampled"}),
        Defence("clipping", clip),
        Defence("local noise", noisy | {"noise": "client"}, privacy="local"),
        Defence("secure sum", {"aggregation": "secure"}, summed=True),
        Defence("clipped secure sum", clip | {"aggregation": "secure"}, summed=True),
        Defence(
            "distributed noise",
            noisy | {"aggregation": "secure", "privacy": "distributed"},
            summed=True,
        ),
        Defence("central noise", noisy | {"noise": "central"}, summed=True, privacy="central"),
    ]


def stated_of(config: Config, dataset: Dataset, defence: Defence) -> dict[str, Any] | None:
    """The privacy statement after all rounds with a defence; None if it has none.

    Raises:
      InputError: there is no statement for these flags.
    """
    private = config.flat | ({"privacy": defence.privacy} if defence.privacy else {})
    given = resolved(Config.from_flat(**private), dataset.num_users)
    return statement(given, dataset.num_users, config.federation.rounds)


def half_of(dataset: Dataset, seed: int) -> np.ndarray:
    """bool [N]: half of the clients, drawn; the membership attack trains on each half.

    Raises:
      InputError: there is one client.
    """
    if dataset.num_users < 2:
        raise InputError(
            f"--dataset={dataset.name}: has 1 user, but the membership attack compares two halves "
            "of the users; give a data set of more"
        )
    return np.random.default_rng(seed).permutation(dataset.num_users) % 2 == 0


def line(base: Config, dataset: Dataset, defence: Defence, feature_scale: float) -> dict[str, Any]:
    """One line of the table."""
    config = base.changed(**defence.flags).resolved
    member = half_of(dataset, base.run.seed)
    _, target = trained(config, dataset, member)
    _, shadow = trained(config, dataset, ~member, shadow=True)
    table = lambda state: np.asarray(state.server.shared["items"], np.float64)
    simulation, state = trained(config, dataset)
    setup = dataclasses.replace(simulation.setup, config=config)
    simulation = dataclasses.replace(simulation, setup=setup)
    ranks = simulation.evaluate(state, "test")
    test = averages(ranks.ahead, ranks.tied, dataset, "test", config.evaluation.cutoffs)
    stated = stated_of(config, dataset, defence)
    return {
        "defence": defence.name,
        **on_histories(simulation, defence, feature_scale),
        "membership_auc": membership_auc(
            table(target), table(shadow), dataset.train.matrix, member
        ),
        "hr@50": test["hr@50"],
        "ndcg@50": test["ndcg@50"],
        "epsilon": stated and best_epsilon(stated["epsilon"]["spent"]),
    }


def with_contents(base: Config, contents: str) -> dict[str, Config]:
    """{"without" or "with": `base` without or with images and text}, in the order of --contents.

    Raises:
      InputError: an unknown or repeated name, or "with" for --fusion=none.
    """
    names = contents.split(",")
    if not set(names) <= set(CONTENTS) or len(set(names)) < len(names):
        raise InputError(f"--contents={contents}: give without, with, or without,with")
    if "with" in names and base.model.fusion == "none":
        raise InputError(
            f"--contents={contents}: --fusion=none has no image and text; give --contents=without, "
            "or another fusion"
        )
    plain = base.changed(fusion="none")
    return {name: base if name == "with" else plain for name in names}


def clip_bound(config: Config, dataset: Dataset) -> tuple[float, Config]:
    """(--clip_norm, or the median norm of the first uploads; `config` without clipping)."""
    plain = config.changed(clip_norm=0.0)
    if bound := config.privacy.clip_norm:
        return bound, plain
    simulation = make_simulation(plain, dataset)
    return float(np.median(client_uploads(simulation, simulation.init())[1])), plain


def main() -> None:
    base = config_from_flags()
    folder = required_workdir(base, "runs/attacks")
    for name in ("multiplier", "feature_scale"):
        value: Any = FLAGS[name].value
        if not value > 0:
            raise InputError(f"--{name}={value}: give a number above 0")
    contents = with_contents(base, FLAGS.contents)
    dataset = load(base)
    # Refused before anything is trained.
    half_of(dataset, base.run.seed)
    # The table has an epsilon, and some defences have noise.
    note_unused(*contents.values(), used=("target_delta", "noise"))
    lines = []
    for content, config in contents.items():
        bound, plain = clip_bound(config, dataset)
        found = defences(bound, FLAGS.multiplier)
        # Every defence is refused before any is trained.
        for each in found:
            stated_of(plain.changed(**each.flags).resolved, dataset, each)
        lines += [
            {"content": content, "clip_norm": bound}
            | line(plain, dataset, each, FLAGS.feature_scale)
            for each in found
        ]
    write_lines(lines, base, dataset, folder)


def write_lines(lines: list[dict[str, Any]], base: Config, dataset: Dataset, folder: Path) -> None:
    """Prints the table and writes it, its numbers and its plot."""
    attacks = ("sign", "chance", "inversion", "shadow", "features")
    headings = ("defence", "content", *attacks, "membership", "HR@50", "NDCG@50", "epsilon")
    columns = ("sign_f1", "sign_chance", "inversion_f1", "shadow_f1", "features_f1")
    shown = lambda value, digits: "–" if value is None else f"{value:.{digits}f}"
    rows = [
        [
            *(each["defence"], each["content"]),
            *(shown(each.get(name), 3) for name in (*columns, "membership_auc")),
            *(f"{each[name]:.1f}" for name in ("hr@50", "ndcg@50")),
            shown(each["epsilon"], 1),
        ]
        for each in lines
    ]
    bounds = dict.fromkeys(f"{each['clip_norm']:.3g}" for each in lines)
    caption = (
        "sign, inversion, shadow, features: F1 of the items of the history that the attack infers, "
        "1 is all; chance: of as many random items. membership: area under the curve of whether a "
        "client took part, 0.5 is chance. HR and NDCG in percent. "
        f"{dataset.num_users} clients, {dataset.num_items} items, {base.federation.rounds} rounds, "
        f"clipping at {' and '.join(bounds)}, noise multiplier {FLAGS.multiplier:g}, rows of "
        f"length {FLAGS.feature_scale:g}; delta {base.privacy.target_delta:g}. Local and central "
        "epsilons are not comparable."
    )
    table = Table(f"{dataset.name}: attacks", headings, rows, caption, chosen=False)
    write_table(table, lines, folder / "attacks")
    bars = [
        (
            f"{e['defence']}, {e['content']}",
            [e.get(name) for name in (*columns[:1], *columns[2:], "membership_auc")],
        )
        for e in lines
    ]
    write_text(
        folder / "attacks.svg", attack_bars((*attacks[:1], *attacks[2:], "membership"), bars)
    )
