"""The attacks of a server that follows the protocol, or chooses the views that it sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.federated.aggregator import Aggregator, make_aggregator
from fedvlr_jax.federated.local import LocalInput
from fedvlr_jax.federated.participation import make_cohorts
from fedvlr_jax.federated.plans import PLANS
from fedvlr_jax.federated.round import make_broadcast, open_round
from fedvlr_jax.federated.scoring import views_of
from fedvlr_jax.federated.streams import LOCAL, stream
from fedvlr_jax.privacy.attacks import (
    ShadowClient,
    positives_by_inversion,
    positives_by_shadow,
    positives_by_sign,
    score_of,
)
from fedvlr_jax.privacy.secure_rounds import ring_of
from fedvlr_jax.settings import compiled
from fedvlr_jax.simulation import Simulation, State, make_simulation
from fedvlr_jax.simulation.buckets import in_user_order
from fedvlr_jax.uplink import Needs, Uploads
from fedvlr_jax.uplink.ring import from_ring, to_ring

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
        broadcast = open_round(task, plan, server, simulation.features, rates).broadcast
        if views is not None:
            broadcast = make_broadcast(task, plan, views, server, rates)
        key, found = stream(server.key, LOCAL, server.round), []
        for cohort, rows in zip(cohorts, state.private, strict=True):
            alpha = jnp.ones(cohort.responded.shape)
            sent = update(broadcast, LocalInput(cohort, alpha, rows), key).uploads
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
