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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fedvlr_jax.commands.flags.privacy import CONTENTS
from fedvlr_jax.commands.shared.config_flags import config_from_flags, note_unused
from fedvlr_jax.commands.shared.runs import load, required_workdir
from fedvlr_jax.commands.shared.tables import write_table, write_text
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import averages
from fedvlr_jax.federated.aggregator import Aggregator, make_aggregator
from fedvlr_jax.federated.participation import make_cohorts
from fedvlr_jax.federated.plans import PLANS
from fedvlr_jax.federated.round import make_broadcast, open_round
from fedvlr_jax.federated.scoring import views_of
from fedvlr_jax.federated.streams import LOCAL, stream
from fedvlr_jax.privacy.attacks import (
    ShadowClient,
    membership_auc,
    positives_by_inversion,
    positives_by_shadow,
    positives_by_sign,
    score_of,
)
from fedvlr_jax.privacy.calibration import resolved
from fedvlr_jax.privacy.secure_rounds import ring_of
from fedvlr_jax.privacy.statement import best_epsilon, statement
from fedvlr_jax.report.folder import Table
from fedvlr_jax.report.study_plots import attack_bars
from fedvlr_jax.settings import compiled
from fedvlr_jax.simulation import Simulation, State, make_simulation
from fedvlr_jax.simulation.buckets import in_user_order
from fedvlr_jax.uplink import Needs, Uploads
from fedvlr_jax.uplink.ring import from_ring, to_ring

FLAGS = flags.FLAGS
# Clients whose features the server manipulates, one after the other.
VICTIMS = 50


class Defence(NamedTuple):
    """A protection of the clients.

    Attributes:
      name: heading of its line.
      flags: flags of the training.
      summed: whether the server sees only the sum of the uploads.
      privacy: the --privacy that states its epsilon; "" for none, or if `flags` give it.
    """

    name: str
    flags: dict[str, Any]
    summed: bool = False
    privacy: str = ""


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


def client_uploads(
    simulation: Simulation, state: State, views: jax.Array | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(view rows [N, I, G * d] after clipping, norms [N] before clipping): every client's upload
    of the next round, in the order of the users.

    Args:
      views: float32 [I, G, d] that the server sends in place of the right ones.
    """
    # All plans compute the same uploads, but some give only their sum: use another plan then.
    task, gives = simulation.task, PLANS[simulation.plan].gives
    plan = simulation.plan if gives == Needs.WHOLE else "gathered"
    update, uplink = PLANS[plan].make_update(task), task.aggregator.uplink
    histories = simulation.on_device.histories
    rates = simulation.config.federation.rates

    def uploads(state: State, views: jax.Array | None):
        server = state.server
        sampled = [jnp.asarray(history.count) > 0 for history in histories]
        weight = simulation.model.backbone.weight
        cohorts = make_cohorts(server, histories, sampled, weight, task.config.federation)
        broadcast, _ = open_round(task, plan, server, simulation.features, rates)
        if views is not None:
            broadcast = make_broadcast(task, plan, views, server, rates)
        key, found = stream(server.key, LOCAL, server.round), []
        for cohort, rows in zip(cohorts, state.private, strict=True):
            alpha = jnp.ones(cohort.responded.shape)
            sent = update(broadcast, cohort, alpha, rows, key).uploads
            assert isinstance(sent, Uploads)
            factor, _ = uplink.weigh(sent.norms(), cohort, server.uplink)
            clipped = sent.scaled(factor).block(jnp.zeros((), jnp.int32), sent.shape[1])
            found.append((clipped.reshape(*clipped.shape[:2], -1), sent.norms()))
        return found

    return in_user_order(simulation.buckets, jax.device_get(compiled(uploads)(state, views)))


def only(aggregator: Aggregator, member: np.ndarray) -> Aggregator:
    """`aggregator` that sets the uploads of clients outside `member` bool [N] to zero."""
    kept = jnp.asarray(member, jnp.float32)

    def weigh(norms, cohort, state):
        factor, clipped = aggregator.uplink.weigh(norms, cohort, state)
        return factor * kept.at[cohort.histories.client].get(mode="clip"), clipped

    return aggregator._replace(uplink=aggregator.uplink._replace(weigh=weigh))


def trained(
    config: Config, dataset: Dataset, member: np.ndarray | None = None, *, shadow: bool = False
) -> tuple[Simulation, State]:
    """(simulation, its state after --rounds), trained on the clients of `member`, or on all.

    A `shadow` has the same initial table, which is public, but draws other noise.
    """
    aggregator = make_aggregator(config, dataset.num_users)
    if member is not None:
        aggregator = only(aggregator, member)
    if config.privacy.privacy != "none":
        # The statement is made apart; an aggregator that leaves clients out has none.
        config = Config.from_flat(**(config.flat | {"privacy": "none", "noise_multiplier": 0.0}))
    simulation = make_simulation(config, dataset, aggregator=aggregator)
    state = simulation.init()
    if shadow:
        state = state._replace(
            server=state.server._replace(key=jax.random.fold_in(state.server.key, 1))
        )
    state, _ = simulation.run_rounds(state, config.federation.rounds)
    return simulation, state


def on_histories(
    simulation: Simulation, defence: Defence, feature_scale: float
) -> dict[str, float]:
    """The attacks on the histories, in the first round."""
    config, dataset = simulation.config, simulation.dataset
    state = simulation.init()
    views = _as_sent(simulation, client_uploads(simulation, state)[0])
    broadcast = views_of(simulation.model, state.server.shared, simulation.features)
    known = np.asarray(broadcast).reshape(len(broadcast), -1)
    federation = config.federation
    client = ShadowClient(federation.local_epochs, federation.client_lr, federation.num_negatives)
    deviation = config.privacy.noise_multiplier * config.privacy.clip_norm
    draws = np.random.default_rng(config.run.seed)
    noisy = lambda rows: rows + deviation * draws.standard_normal(rows.shape)
    seen = [noisy(views.sum(axis=0))] if defence.summed else [noisy(rows) for rows in views]
    attacks: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "sign": positives_by_sign,
        "inversion": positives_by_inversion,
        "shadow": lambda rows: positives_by_shadow(rows, known, client),
    }
    found: dict[str, float] = {}
    for name, attack in attacks.items():
        guess = np.broadcast_to(np.stack([attack(rows) for rows in seen]), views.shape[:2])
        score = score_of(guess, dataset.train.matrix)
        found |= {f"{name}_{key}": value for key, value in score._asdict().items()}
    guess, victims = _by_features(simulation, state, defence, views, feature_scale, noisy)
    score = score_of(guess, dataset.train.matrix[victims])
    return found | {f"features_{key}": value for key, value in score._asdict().items()}


def _as_sent(simulation: Simulation, views: np.ndarray) -> np.ndarray:
    """Uploads as the ring of a secure sum holds them; as they are without one."""
    config = simulation.config
    if config.federation.aggregation != "secure":
        return views
    ring = ring_of(config, simulation.dataset.num_users)
    return np.asarray(from_ring(ring, to_ring(ring, jnp.asarray(views))))


def _by_features(
    simulation: Simulation,
    state: State,
    defence: Defence,
    views: np.ndarray,
    feature_scale: float,
    noisy: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """(guesses bool [V, I], victims [V]) of a server that chooses the features of one client.

    All items of the victim have one row, as long as an upload of the victim needs to outweigh the
    others: the step of its private vector grows with the row. All its positives then have one
    gradient, and all its negatives another.
    """
    victims = np.arange(min(VICTIMS, len(views)))
    drawn = views_of(simulation.model, state.server.shared, simulation.features)
    alike = feature_scale * jnp.ones_like(drawn) / np.sqrt(drawn.shape[2])
    scaled = _as_sent(simulation, client_uploads(simulation, state, alike)[0])
    total = views.sum(axis=0) if defence.summed else 0.0
    own = views if defence.summed else np.zeros_like(views)
    seen = (noisy(total - own[victim] + scaled[victim]) for victim in victims)
    return np.stack([positives_by_inversion(rows) for rows in seen]), victims


def stated_of(config: Config, dataset: Dataset, defence: Defence) -> dict[str, Any] | None:
    """The privacy statement after all rounds with a defence; None if it has none.

    Raises:
      InputError: there is no statement for these flags.
    """
    private = config.flat | ({"privacy": defence.privacy} if defence.privacy else {})
    given = resolved(Config.from_flat(**private), dataset.num_users)
    return statement(given, dataset.num_users, config.federation.rounds)


def line(base: Config, dataset: Dataset, defence: Defence, feature_scale: float) -> dict[str, Any]:
    """One line of the table."""
    config = base.changed(**defence.flags).resolved
    member = np.random.default_rng(base.run.seed).permutation(dataset.num_users) % 2 == 0
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
        f"{dataset.num_users} clients, {dataset.num_items} items, {base.federation.rounds} rounds, "
        f"clipping at {' and '.join(bounds)}, noise multiplier {FLAGS.multiplier:g}, rows of "
        f"length {FLAGS.feature_scale:g}; F1 of the histories, AUC of membership; delta "
        f"{base.privacy.target_delta:g}. Local and central epsilons are not comparable."
    )
    write_table(
        Table(f"{dataset.name}: attacks", headings, rows, caption), lines, folder / "attacks"
    )
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
