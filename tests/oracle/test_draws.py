"""The distributions of random draws, through public functions: noise, negatives, initial values."""

import jax
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.federated.plans.slots import make_slots
from fedvlr_jax.federated.plans.steps import client_keys
from fedvlr_jax.simulation import make_simulation

ITEMS, WIDTH = 500, 16


@pytest.fixture(scope="module")
def data():
    """Three clients with 1, 2 and 5 train items; their FedAvg weights are 1/8, 2/8 and 5/8."""
    empty = Interactions.from_pairs(user=[], item=[], num_users=3, num_items=ITEMS)
    train = Interactions.from_pairs(
        user=[0, 1, 1, 2, 2, 2, 2, 2],
        item=[0, 1, 2, 3, 4, 5, 6, 7],
        num_users=3,
        num_items=ITEMS,
    )
    return Dataset(
        name="three",
        train=train,
        valid=empty,
        test=empty,
        features={},
        user_ids=np.arange(3).astype(str),
        item_ids=np.arange(ITEMS).astype(str),
        split="predefined",
    )


def table_after(data, multiplier, rounds):
    """The ID table after each round; with this configuration, its change is the noisy mean."""
    config = Config.from_flat(
        backbone="fedavg",
        fusion="none",
        width=WIDTH,
        local_epochs=1,
        clip_norm=0.01,
        noise_multiplier=multiplier,
        server_optimizer="sgd",
        server_lr_items=1.0,
        # The head is constant, so the noise of one round does not change the next gradient.
        server_lr_head=0.0,
        server_decay=0.0,
        eval_every=1,
        devices=1,
    )
    simulation = make_simulation(config, data)
    state, tables = simulation.init(0), []
    for _ in range(rounds):
        state, _ = simulation.run_rounds(state, 1)
        tables.append(np.asarray(state.server.shared["items"]))
    return tables


def test_noise_has_the_law_of_every_client_adding_its_own(data):
    """Each client adds N(0, (4 * 0.01)^2) to its upload; the weights of the mean are 1 : 2 : 5."""
    deviation = 4 * 0.01 * np.sqrt((1 + 4 + 25) / 64)
    (plain,) = table_after(data, 0.0, 1)
    first, second = table_after(data, 4.0, 2)
    noise = (plain - first).astype(float)
    # 8,000 numbers: standard errors of 1.1 % of the mean, 0.8 % of the deviation, 0.055 of the
    # kurtosis and 0.011 of a correlation. The two gradients of a round are within the bound.
    assert noise.mean() == pytest.approx(0, abs=5 * 0.011 * deviation)
    assert noise.std() == pytest.approx(deviation, rel=5 * 0.008)
    unit = (noise - noise.mean()) / noise.std()
    assert np.mean(unit**4) == pytest.approx(3, abs=5 * 0.055)
    correlation = lambda a, b: abs(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert correlation(noise[1:], noise[:-1]) < 5 * 0.011
    assert correlation(noise[:, 1:], noise[:, :-1]) < 5 * 0.011
    # The next round adds a gradient of norm at most 0.01 and an independent draw.
    later = (first - second).astype(float)
    assert later.std() == pytest.approx(deviation, rel=5 * 0.008)
    assert correlation(noise, later) < 5 * 0.011


def test_negatives_are_drawn_for_each_epoch_and_client(data):
    config = Config.from_flat(
        fusion="none", width=2, negatives="sampled", local_epochs=2, plan="gathered", devices=1
    )
    simulation = make_simulation(config, data)
    history = simulation.on_device.histories[0]
    keys = client_keys(jax.random.key(0), history.client, 2)
    slots = jax.vmap(lambda h, k: make_slots(simulation.task, h, k))(history, keys)
    # Four negatives for each of the five positives of the last client, in each epoch.
    drawn = [
        np.sort(np.repeat(slots.item[2], n.astype(int))) for n in np.asarray(slots.negative[2])
    ]
    assert [len(d) for d in drawn] == [20, 20]
    assert not np.array_equal(*drawn)
    of_clients = np.asarray(jax.random.key_data(keys))[:3].reshape(6, -1)
    assert len(np.unique(of_clients, axis=0)) == 6


def test_drawn_initial_values(data):
    config = Config.from_flat(
        backbone="fedrap", views="id,sum", width=WIDTH, init_scale=0.3, devices=1
    )
    simulation = make_simulation(config, data)
    state = simulation.init(0)
    items = np.asarray(state.server.shared["items"])
    # 8,000 numbers. The initial router weights are uniform, and personal rows are zero.
    assert items.std() == pytest.approx(0.3, rel=5 * 0.008)
    np.testing.assert_allclose(simulation.router_weights(state), 0.5, rtol=1e-6)
    assert not np.any(state.private[0]["items"])
    vector = np.asarray(state.private[0]["head"]["vector"])
    assert not np.array_equal(vector[0], vector[1])
