"""Attacks on a federation, against what defends it, beside what each defence costs.

    fedvlr privacy --synthetic_users=300 --fusion=none --rounds=20 --workdir=runs/att

A table with a line for each defence:

- sign: which items are a client's positives, by the sign of the item rows of its upload (F1), and
  the F1 of as many random items. The attacker sees what the defence shows: each upload, or the sum
  of all, from which it guesses the same items for everyone.
- membership: whether a client took part at all, by the trained ID table and a shadow that was
  trained on the other half of the clients (area under the curve; 0.5 is chance).
- HR@50 and NDCG@50 of the test part, trained with the defence on all clients, and epsilon where
  there is one.

--clip_norm=0 clips at the median norm of the first round's uploads. Writes attacks.json, .csv, .md
and attacks.svg into --workdir.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from fedvlr_jax.commands.shared.comparison import write_table, write_text
from fedvlr_jax.commands.shared.launch import config_from_flags, define_config_flags
from fedvlr_jax.commands.shared.runs import load, required_workdir
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import averages
from fedvlr_jax.federated.aggregator import Aggregator, make_aggregator
from fedvlr_jax.federated.participation import LOCAL, make_cohorts, stream
from fedvlr_jax.federated.plans import PLANS
from fedvlr_jax.federated.round import open_round
from fedvlr_jax.privacy.attacks import membership_auc, positives_by_sign, score_of
from fedvlr_jax.privacy.statement import statement
from fedvlr_jax.report.plots import attack_bars
from fedvlr_jax.settings import compiled
from fedvlr_jax.simulation import Simulation, State, make_simulation
from fedvlr_jax.simulation.buckets import in_user_order
from fedvlr_jax.uplink import Needs, Uploads

FLAGS = flags.FLAGS


class Defence(NamedTuple):
    """What protects the clients.

    Attributes:
      flags: of the training. summed: whether the server sees only the sum of the uploads.
      privacy: the --privacy whose statement the training has; "" for none.
    """

    name: str
    flags: dict[str, Any]
    summed: bool = False
    privacy: str = ""


def defences(bound: float, multiplier: float) -> list[Defence]:
    """The lines of the table, for clipping at `bound` and noise of `multiplier` times it."""
    clip = {"clip_norm": bound, "aggregation": "fixed_mean"}
    noisy = clip | {"noise_multiplier": multiplier}
    return [
        Defence("none", {}),
        Defence("sampled negatives", {"negatives": "sampled"}),
        Defence("clipping", clip),
        Defence("local noise", noisy | {"noise": "client"}, privacy="local"),
        Defence("secure sum", {}, summed=True),
        Defence("central noise", noisy | {"noise": "central"}, summed=True, privacy="central"),
    ]


def client_uploads(simulation: Simulation, state: State) -> tuple[np.ndarray, np.ndarray]:
    """What every client sends in the next round, after clipping: (views [N, I, G * d], norms [N]
    before it), by user."""
    # The plans that give sums alone compute the same uploads.
    task, gives = simulation.task, PLANS[simulation.plan].gives
    plan = simulation.plan if gives == Needs.WHOLE else "gathered"
    update, uplink = PLANS[plan].make_update(task), task.aggregator.uplink
    histories = simulation.on_device.histories
    rates = simulation.config.federation.rates

    def uploads(state: State):
        server = state.server
        asked = [jnp.asarray(history.count) > 0 for history in histories]
        weight = simulation.model.backbone.weight
        cohorts = make_cohorts(server, histories, asked, weight, task.config.federation)
        broadcast, _ = open_round(task, plan, server, simulation.features, rates)
        key, found = stream(server.key, LOCAL, server.round), []
        for cohort, rows in zip(cohorts, state.private, strict=True):
            alpha = jnp.ones(cohort.responded.shape)
            sent = update(broadcast, cohort, alpha, rows, key).uploads
            assert isinstance(sent, Uploads)
            factor, _ = uplink.weigh(sent.norms(), cohort, server.uplink)
            views = sent.scaled(factor).block(jnp.zeros((), jnp.int32), sent.shape[1])
            found.append((views.reshape(*views.shape[:2], -1), sent.norms()))
        return found

    return in_user_order(simulation.buckets, jax.device_get(compiled(uploads)(state)))


def only(aggregator: Aggregator, member: np.ndarray) -> Aggregator:
    """`aggregator`, to which the uploads of all but `member` bool [N] are zeros."""
    kept = jnp.asarray(member, jnp.float32)

    def weigh(norms, cohort, state):
        factor, clipped = aggregator.uplink.weigh(norms, cohort, state)
        return factor * kept.at[cohort.histories.client].get(mode="clip"), clipped

    return aggregator._replace(uplink=aggregator.uplink._replace(weigh=weigh))


def trained(
    config: Config, dataset: Dataset, member: np.ndarray | None = None, *, shadow: bool = False
) -> tuple[Simulation, State]:
    """(simulation, its state after --rounds), trained on the clients of `member`, or on all.

    A `shadow` begins with the same table, which is public, and draws other noise.
    """
    aggregator = make_aggregator(config, dataset.num_users)
    if member is not None:
        aggregator = only(aggregator, member)
    simulation = make_simulation(config, dataset, aggregator=aggregator)
    state = simulation.init()
    if shadow:
        state = state._replace(
            server=state.server._replace(key=jax.random.fold_in(state.server.key, 1))
        )
    state, _ = simulation.run_rounds(state, config.federation.rounds)
    return simulation, state


def by_sign(simulation: Simulation, defence: Defence) -> dict[str, float]:
    """The sign attack on the first round."""
    config, dataset = simulation.config, simulation.dataset
    views, _ = client_uploads(simulation, simulation.init())
    deviation = config.privacy.noise_multiplier * config.privacy.clip_norm
    draws = np.random.default_rng(config.run.seed)
    if defence.summed:
        total = views.sum(axis=0)
        total = total + deviation * draws.standard_normal(total.shape)
        guess = np.broadcast_to(positives_by_sign(total), views.shape[:2])
    else:
        noisy = (rows + deviation * draws.standard_normal(rows.shape) for rows in views)
        guess = np.stack([positives_by_sign(rows) for rows in noisy])
    found = score_of(guess, dataset.train.matrix)
    return {f"sign_{name}": value for name, value in found._asdict().items()}


def line(base: Config, dataset: Dataset, defence: Defence) -> dict[str, Any]:
    """One line of the table."""
    config = Config.from_flat(**(base.flat | defence.flags))
    member = np.random.default_rng(base.run.seed).permutation(dataset.num_users) % 2 == 0
    _, target = trained(config, dataset, member)
    _, shadow = trained(config, dataset, ~member, shadow=True)
    table = lambda state: np.asarray(state.server.shared["items"], np.float64)
    simulation, state = trained(config, dataset)
    ranks = simulation.evaluate(state, "test")
    test = averages(ranks.ahead, ranks.tied, dataset, "test", config.evaluation.cutoffs)
    private = config.flat | {"privacy": defence.privacy or "none"}
    stated = statement(Config.from_flat(**private), dataset.num_users, config.federation.rounds)
    return {
        "defence": defence.name,
        **by_sign(simulation, defence),
        "membership_auc": membership_auc(
            table(target), table(shadow), dataset.train.matrix, member
        ),
        "hr@50": test["hr@50"],
        "ndcg@50": test["ndcg@50"],
        "epsilon": stated and stated["epsilon"]["spent"]["pld"],
    }


def main() -> None:
    base = config_from_flags()
    folder = required_workdir(base, "runs/attacks")
    if not FLAGS.multiplier > 0:
        raise InputError(f"--multiplier={FLAGS.multiplier}: give a number above 0")
    dataset = load(base)
    bound = base.privacy.clip_norm
    plain = Config.from_flat(**(base.flat | {"clip_norm": 0.0}))
    if not bound:
        simulation = make_simulation(plain, dataset)
        bound = float(np.median(client_uploads(simulation, simulation.init())[1]))
    lines = [line(plain, dataset, each) for each in defences(bound, FLAGS.multiplier)]
    headings = ("defence", "sign F1", "chance", "membership AUC", "HR@50", "NDCG@50", "epsilon")
    shown = lambda value, digits: "–" if value is None else f"{value:.{digits}f}"
    rows = [
        [
            each["defence"],
            *(f"{each[name]:.3f}" for name in ("sign_f1", "sign_chance", "membership_auc")),
            *(f"{each[name]:.1f}" for name in ("hr@50", "ndcg@50")),
            shown(each["epsilon"], 1),
        ]
        for each in lines
    ]
    caption = (
        f"{dataset.num_users} clients, {dataset.num_items} items, {base.federation.rounds} rounds, "
        f"clipping at {bound:.3g}, noise multiplier {FLAGS.multiplier:g}, delta "
        f"{base.privacy.target_delta:g}; a local epsilon is not comparable with a central one"
    )
    write_table(headings, rows, lines, folder / "attacks", f"{dataset.name}: attacks", caption)
    bars = [(e["defence"], e["sign_f1"], e["sign_chance"], e["membership_auc"]) for e in lines]
    write_text(folder / "attacks.svg", attack_bars(bars))


def define_flags() -> None:
    """Defines the flags of this command."""
    define_config_flags(without=("privacy", "target_epsilon", "noise_multiplier", "negatives"))
    flags.DEFINE_float("multiplier", 1.0, "Noise of the noisy defences, in units of the bound.")
