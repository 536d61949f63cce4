"""The package's readable Algorithm 1 against the reference; they share no code."""

import jax
import numpy as np
import pytest

from fedvlr_jax.federated.algorithm1 import play_round
from fedvlr_jax.federated.participation import make_cohorts
from tests.oracle import adapter, reference
from tests.oracle.federations import federations
from tests.oracle.test_agreement import assert_states_agree

pytestmark = pytest.mark.usefixtures("double_precision")
PRINTED = dict(upload="gradient", loss="bce", clip_norm=0.0, history_weight=0.0, recency=0.0)
ANY = dict(received="plain", plan="auto", cohort=0)


def draw_cohort(simulation, server):
    sampled = [
        np.asarray(h.client) < simulation.dataset.num_users for h in simulation.on_device.histories
    ]
    weight, config = simulation.model.backbone.weight, simulation.config.federation
    (cohort,) = make_cohorts(server, simulation.on_device.histories, sampled, weight, config)
    return cohort


@pytest.mark.parametrize("number", range(8))
def test_a_round(number):
    federation = adapter.make_federation(number, federations()[number] | PRINTED | ANY)
    simulation, features = federation.simulation, federation.features
    state = adapter.random_state(federation)
    clients = adapter.given_to(federation, state.server)
    before = adapter.reference_state(federation, state)
    expected, _ = reference.play_round(federation.options, features, before, clients)
    cohort = draw_cohort(simulation, state.server)
    (stacked,), places = state.private, cohort.histories.client.tolist()
    rows = {client: jax.tree.map(lambda x, k=k: x[k], stacked) for k, client in enumerate(places)}
    rates = simulation.config.federation.rates
    server, after = play_round(
        simulation.task, simulation.features, state.server, rows, cohort, rates
    )
    stacked = jax.tree.map(lambda *each: np.stack(each), *(after[client] for client in places))
    assert_states_agree(
        federation, state._replace(server=server, private=(stacked,)), expected, 2e-6
    )
