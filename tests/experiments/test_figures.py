"""The launchers of figures: what they measure is what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.commands.convergence import (
    make_gradient_norm,
    measure,
    probe_config,
    summarise,
)
from fedvlr_jax.commands.heterogeneity import by_activity, over_seeds, with_targets
from fedvlr_jax.commands.launching.config_flags import whole_numbers
from fedvlr_jax.config import Config
from fedvlr_jax.data.cohorts import multi_hot
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError, NonFiniteError
from fedvlr_jax.report.plots import activity_bars
from fedvlr_jax.simulation import make_simulation
from tests.conftest import mostly_slow


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 12, "items": 50})


@pytest.mark.parametrize("backbone", ["fcf", "fedavg"])
@pytest.mark.slow
def test_the_gradient_norm_is_that_of_the_written_objective(backbone, dataset):
    config = Config.from_flat(
        backbone=backbone, fusion="bilevel", init="random", width=4, local_epochs=3
    )
    simulation = make_simulation(config, dataset)
    state, _ = simulation.run_rounds(simulation.init(), 3)
    model = simulation.model
    # Behind the twelve clients lie rows of nobody.
    history, rows = jax.tree.map(
        lambda x: x[:12], (simulation.on_device.histories[0], state.private[0])
    )
    counts = jnp.asarray(history.count, jnp.float32)
    alpha = counts / counts.sum() if backbone == "fedavg" else jnp.full(12, 1 / 12)

    def objective(shared, private):
        views = model.fusion.views(shared["fusion"], shared["items"], simulation.features)
        positive = multi_hot(history, 50)
        # Four negatives a positive, spread evenly over what the client does not have.
        negative = (1 - positive) * (4 * counts / (50 - counts))[:, None]
        pooled = positive @ views.reshape(50, -1) / counts[:, None]
        weights = jax.vmap(model.fusion.route)(private["router"], pooled)
        vectors = jnp.einsum("kg,igd->kid", weights, views)
        score = lambda own, v: model.backbone.score(shared["head"], own, v)
        scores = (
            jax.vmap(score)(private["head"], vectors)
            if private["head"]
            else jax.vmap(lambda v: score({}, v))(vectors)
        )
        loss = positive * jax.nn.softplus(-scores) + negative * jax.nn.softplus(scores)
        return jnp.sum(alpha * loss.sum(axis=1) / (positive + negative).sum(axis=1))

    gradient = jax.grad(objective, (0, 1))(state.server.shared, rows)
    expected = sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(gradient))
    found = make_gradient_norm(simulation)(state)
    assert found == pytest.approx(expected, rel=1e-3)
    # Measuring takes nothing away.
    assert make_gradient_norm(simulation)(state) == found


# Trained with them, and refused or wrong if the probe kept them.
PROBED = (
    {"aggregation": "median"},
    {"aggregation": "trimmed_mean", "byzantine_share": 0.3},
    {"aggregation": "secure", "secure_levels": 1000},
    {"sampling": "poisson", "cohort": 6, "cohort_places": 8},
    {"clip_norm": 0.01, "clip_quantile": 0.5},
    {"privacy": "central", "noise_multiplier": 1.0, "clip_norm": 0.1, "target_delta": 0.01},
    {"privacy": "central", "noise_multiplier": 1.0, "clip_norm": 0.1, "target_delta": 0.01}
    | {"noise_bands": 2, "sampling": "poisson", "cohort": 4},
    {"upload_bits": 4},
    {"negatives": "sampled", "upload": "delta"},
    {"plan": "gathered"},
)


PLAIN = Config.from_flat(
    init="random", width=4, router_hidden=3, views="id,text", server_optimizer="sgd"
)


@pytest.fixture(scope="module")
def trained(dataset):
    """(the packed state after a round of PLAIN, its gradient norm)."""
    simulation = make_simulation(PLAIN, dataset)
    state, _ = simulation.run_rounds(simulation.init(), 1)
    return simulation.pack(state), make_gradient_norm(simulation)(state)


@pytest.mark.parametrize("others", mostly_slow(PROBED, 5), ids=str)
def test_the_gradient_norm_does_not_depend_on_how_uploads_are_combined(others, dataset, trained):
    packed, expected = trained
    other = make_simulation(PLAIN.changed(**others), dataset)
    # The same parameters, in the rows and with the server of the other training.
    given = packed["server"]
    server = other.init().server._replace(shared=given.shared, round=given.round)
    moved = other.unpack({**packed, "server": server})
    assert make_gradient_norm(other)(moved) == pytest.approx(expected, rel=1e-5)


def test_the_probe_has_the_initialization_of_the_training(dataset):
    config = Config.from_flat(aggregation="median", width=4)
    assert probe_config(config).resolved.init.init == config.resolved.init.init == "random"


def test_plain_steps_lower_the_gradient(dataset):
    config = Config.from_flat(width=4, rounds=20, server_optimizer="sgd", server_decay=0.0)
    norms = measure(config, dataset)
    assert norms.shape == (20,) and norms[-5:].mean() < norms[:5].mean()


def test_a_gradient_that_is_not_finite_names_the_steps_of_the_training(dataset):
    """Not those of the probe, which is another simulation."""
    config = Config.from_flat(fusion="none", init="random", width=4, client_lr=7.0)
    simulation = make_simulation(config, dataset)
    state = simulation.init()
    shared = jax.tree.map(lambda leaf: leaf * jnp.nan, state.server.shared)
    state = state._replace(server=state.server._replace(shared=shared))
    with pytest.raises(NonFiniteError, match=r"after round 0 the gradient .* client_lr=7"):
        make_gradient_norm(simulation)(state)


def test_the_slope_by_hand():
    # A mean that falls as 1/sqrt(T): the norm of round t is sqrt(t) - sqrt(t - 1).
    rounds = np.arange(1, 65)
    found = summarise(np.sqrt(rounds) - np.sqrt(rounds - 1))
    assert found["rounds"] == [1, 2, 4, 8, 16, 32, 64]
    assert found["slope"] == pytest.approx(-0.5)
    assert whole_numbers("clients", "10,100") == [10, 100]
    for text in ("", "0", "a", "1.5"):
        with pytest.raises(InputError, match=f"clients={text}"):
            whole_numbers("clients", text)


def test_activity_groups_by_hand():
    weights = np.array([[0.2, 0.8], [0.6, 0.4], [1.0, 0.0]])
    seed = lambda shift: {
        "history_length": np.array([5, 5, 30]),
        "router_weights": weights + np.array([shift, -shift]),
        "hr@50": np.array([1.0, 0.0, np.nan]),
        "ndcg@50": np.array([0.5, 0.0, np.nan]),
    }
    users = over_seeds([seed(0.0), seed(0.2)])
    few, more = by_activity(users, ["id", "text"])
    assert (few["group"], few["users"], more["group"]) == ("0-10", 2, "21-50")
    # Means of (0.3, 0.7) and of (0.7, 0.3).
    assert few["id_mean"] == pytest.approx(0.5) and few["id_sd"] == pytest.approx(0.2)
    assert few["hr@50"] == 50 and few["ndcg@50"] == 25 and more["hr@50"] is None


def test_a_bar_of_joined_groups_weighs_the_users_with_a_target():
    """Of 9 short histories one user has a target, of 12 longer ones all have."""
    users = {
        "history_length": np.repeat([5, 15], [9, 12]),
        "router_weights": np.full((21, 1), 1.0),
        "hr@50": np.array([1.0] + [np.nan] * 8 + [0.0] * 12),
    }
    users["ndcg@50"] = users["hr@50"]
    groups = with_targets(by_activity(users, ["id"]))["test"]["activity"]
    assert {name: group["users"] for name, group in groups.items()} == {"0-10": 1, "11-20": 12}
    figure = activity_bars(with_targets(by_activity(users, ["id"])), users)
    assert "0-20" in figure and ">13<" in figure
