"""The closed-form start: against a plain SVD, as a model scores it, and where it is refused."""

import dataclasses

import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.cohorts import pad_histories
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.exchanges import exchanges_of
from fedvlr_jax.federated.initialization import (
    sources_of,
    spectral_initialization,
)
from fedvlr_jax.federated.preferences import preferences
from fedvlr_jax.federated.scoring import make_scores, views_of
from fedvlr_jax.simulation import make_simulation

WIDTH = 5
OPTIONS = dict(user_power=0.25, item_power=0.5, shrinkage=0.3)


def random_train(rng, num_users=60, num_items=90):
    user, item = np.nonzero(rng.random((num_users, num_items)) < rng.uniform(0.02, 0.3, num_items))
    size = dict(num_users=num_users, num_items=num_items)
    return Interactions.from_pairs(user=user, item=item, time=rng.permutation(len(user)), **size)


def plain_scores(train, width):
    """Ridge regression of every history, as it is weighted, on its projection, by a full SVD."""
    histories = np.zeros((train.num_users, train.num_items))
    histories[train.users, train.item] = 1
    by_user = np.maximum(histories.sum(1, keepdims=True), 1) ** -OPTIONS["user_power"]
    by_item = np.maximum(histories.sum(0, keepdims=True), 1) ** -OPTIONS["item_power"]
    rows = by_user * histories * by_item
    _, singular, right = np.linalg.svd(rows, full_matrices=False)
    squares, right = singular[:width] ** 2, right[:width]
    shrink = squares / (squares + OPTIONS["shrinkage"] * squares.mean())
    weighted = by_user * train.weighted_matrix.toarray() * by_item
    return weighted @ right.T * shrink @ right / by_item


@pytest.mark.parametrize("recency", [0.0, 0.8])
def test_exchanges_lead_to_the_svd(recency):
    train = random_train(np.random.default_rng(0)).weighted_by_recency(recency)
    expected = plain_scores(train, WIDTH)
    errors = []
    for exchanges in (1, 4, 60):
        items, vectors = spectral_initialization(train, WIDTH, exchanges=exchanges, **OPTIONS)
        assert items.shape == (90, WIDTH) and vectors.shape == (60, WIDTH)
        errors.append(np.abs(vectors @ items.T - expected).max())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-9


def test_beyond_the_rank_there_is_nothing():
    train = random_train(np.random.default_rng(1), num_users=4)
    items, vectors = spectral_initialization(train, 7, exchanges=20, **OPTIONS)
    np.testing.assert_allclose(vectors @ items.T, plain_scores(train, 4), atol=1e-9)
    assert not items[:, 4:].any() and not vectors[:, 4:].any()
    assert not items[train.item_counts == 0].any()


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 50, "items": 60})


@pytest.mark.parametrize(
    "choices",
    [
        dict(backbone="fcf", fusion="none"),
        dict(backbone="pfedrec", fusion="vbpr"),
        dict(backbone="fedrap", fusion="bilevel", views="text,table"),
        dict(backbone="fcf", fusion="bilevel", views="table,text,image", init_scale=0.0),
        dict(backbone="fcf", fusion="bilevel", views="text,table", init_router="history"),
    ],
)
@pytest.mark.slow
def test_a_simulation_begins_with_its_scores(choices, dataset):
    config = Config.from_flat(width=WIDTH, init="spectral", init_score=2.5, **choices)
    simulation = make_simulation(config, dataset)
    state = simulation.init()
    everyone = pad_histories(
        dataset.train, np.arange(50), size=len(state.private[0]["head"]["bias"])
    )
    views = views_of(simulation.model, state.server.shared, simulation.features)
    scores, _, seen = make_scores(simulation.model)(
        state.server.shared, views, state.private[0], everyone
    )
    scores, seen = np.asarray(scores)[:50], np.asarray(seen)[:50]
    options = {name: getattr(config.init, f"init_{name}") for name in ("exchanges", *OPTIONS)}
    items, vectors = spectral_initialization(dataset.train, WIDTH, **options)
    expected = vectors @ items.T
    assert scores[seen].mean() == pytest.approx(2.5, rel=1e-4)
    np.testing.assert_allclose(scores, expected * 2.5 / expected[seen].mean(), atol=2e-4)


def test_what_it_exchanges_is_said(dataset):
    config = Config.from_flat(width=5, init="spectral", init_exchanges=2, fusion="none")
    (exchange,) = exchanges_of(config, make_simulation(config, dataset).model, dataset)
    # 60 items: their counts, 2 x 37 columns, 5 of the table; 2 x 37 numbers a row sent.
    assert (
        "2 exchanges" in exchange.line
        and "receives 0.0192 MB, and" in exchange.line
        and "sends 0.296 kB for each" in exchange.line
    )


@pytest.mark.parametrize("backbone", ["fcf", "fedavg"])
@pytest.mark.slow
def test_routers_begin_with_what_the_histories_say(backbone, dataset):
    choices = dict(backbone=backbone, width=WIDTH, views="image,id,text", init_router="history")
    simulation = make_simulation(Config.from_flat(**choices), dataset)
    state = simulation.init()
    drawn = make_simulation(Config.from_flat(**{**choices, "init_router": "uniform"}), dataset)
    np.testing.assert_array_equal(state.server.shared["items"], drawn.init().server.shared["items"])
    contents = [dataset.features[name] for name in ("image", "text")]
    found = preferences(dataset.train, contents, sharpness=12.0, topics=64)
    weights = simulation.router_weights(state)
    np.testing.assert_allclose(weights, found[:, [1, 0, 2]], atol=1e-6)


def test_the_mean_of_the_routers_is_the_same_for_every_client(dataset):
    weights = []
    for name in ("history", "mean"):
        config = Config.from_flat(width=WIDTH, views="text,image,id", init_router=name)
        simulation = make_simulation(config, dataset)
        weights.append(simulation.router_weights(simulation.init()))
        (exchange,) = exchanges_of(config, simulation.model, dataset)
        assert (exchange.once, f"routers by {name}" in exchange.text) == (
            3 * (name == "mean"),
            True,
        )
    assert np.ptp(weights[0], axis=0).min() > 0.01
    np.testing.assert_allclose(weights[1], np.tile(weights[0].mean(axis=0), (50, 1)), atol=1e-6)


def test_routers_can_begin_with_the_planted_weights(dataset):
    config = Config.from_flat(width=WIDTH, views="image,id,text", init_router="planted")
    simulation = make_simulation(config, dataset)
    weights = simulation.router_weights(simulation.init())
    assert exchanges_of(config, simulation.model, dataset) == []
    truth = dataset.planted[:, [2, 0, 1]]
    likely = truth.min(axis=1) > 0.01
    assert likely.sum() > 10
    np.testing.assert_allclose(weights[likely], truth[likely], atol=1e-5)
    # A weight below a thousandth counts as one.
    assert truth.min() < 1e-3 < weights.min() * 1.01
    equal = dataclasses.replace(dataset, planted=None)
    with pytest.raises(InputError, match=r"draws no weights for hostile clients; .*attack=none"):
        make_simulation(config.changed(attack="sign_flip"), dataset)
    with pytest.raises(InputError, match="synthetic has no planted weights"):
        make_simulation(config, equal).init()


def test_views_of_the_same_source_share_its_weight(dataset):
    choices = dict(width=WIDTH, init_router="history", init_topics=5)
    views = lambda names: make_simulation(Config.from_flat(views=names, **choices), dataset)
    weights = [s.router_weights(s.init()) for s in (views("id,table,text"), views("id,text"))]
    np.testing.assert_allclose(weights[0][:, 0], weights[0][:, 1])
    np.testing.assert_allclose(weights[0][:, :2].sum(axis=1), weights[1][:, 0], rtol=1e-5)


def test_the_table_counts_as_the_id():
    assert sources_of(("text", "table", "sum", "id")) == ["text", "id", "sum", "id"]


def test_routers_over_modalities_need_no_exchange(dataset):
    config = Config.from_flat(width=WIDTH, views="text,image", init_router="history")
    simulation = make_simulation(config, dataset)
    (exchange,) = exchanges_of(config, simulation.model, dataset)
    assert "with every client: counts; " in exchange.line and "sends 0 kB for each" in exchange.line
    contents = [dataset.features[name] for name in ("text", "image")]
    found = preferences(dataset.train, contents, sharpness=12.0, topics=0)
    weights = simulation.router_weights(simulation.init())
    np.testing.assert_allclose(weights, found, atol=1e-6)


def test_zero_content_views_learn(dataset):
    config = Config.from_flat(width=WIDTH, init="spectral", views="table,text,image")
    simulation = make_simulation(config, dataset)
    state, _ = simulation.run_rounds(simulation.init(), 2)
    views = views_of(simulation.model, state.server.shared, simulation.features)
    assert np.abs(views).max(axis=(0, 2)).min() > 0


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (dict(backbone="fedavg"), "backbone=fedavg has no private vector"),
        (dict(backbone="fedncf"), "backbone=fedncf has no private vector"),
        (dict(fusion="mlp"), "fusion=mlp hides the rows"),
        (dict(views="id,text,image"), "views=id,text,image hides the rows"),
        (dict(views="table,sum"), "views=table,sum hides the rows"),
        (dict(clip_norm=0.1), "clip_norm"),
        (dict(server_optimizer="none"), "server_optimizer=none excludes"),
        (dict(init_score=1e300), "not finite in float32 with init_score=1e"),
        (
            dict(init="random", init_router="history", clip_norm=0.1),
            "init_router=history: its",
        ),
        (dict(init_router="history", fusion="none"), "fusion=none has no router over single"),
        (
            dict(init="random", init_router="history", views="sum,text"),
            "views=sum,text has no router over single sources; .* among id, image, table, text",
        ),
    ],
)
def test_where_it_has_no_place(choices, message, dataset):
    config = Config.from_flat(**{"init": "spectral", "views": "table,text", **choices})
    with pytest.raises(InputError, match=message):
        make_simulation(config, dataset)
