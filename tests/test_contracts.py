"""What every registered backbone, fusion and operator promises, on a small federation."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.config import BACKBONE_NAMES, FUSION_NAMES, Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.local import LocalInput
from fedvlr_jax.federated.participation import make_cohort
from fedvlr_jax.federated.plans import choose_plan
from fedvlr_jax.federated.round import make_broadcast, make_train
from fedvlr_jax.fusion import make_fusion
from fedvlr_jax.fusion.operators import OPERATORS
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.uplink import Upload
from tests.conftest import mostly_slow

COMBINATIONS = list(itertools.product(BACKBONE_NAMES, FUSION_NAMES))


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 40, "items": 60})


def small(backbone, fusion, **choices):
    # A router step that shows within a few rounds: FedAvg has nothing else that is personal.
    values = dict(
        backbone=backbone,
        fusion=fusion,
        init="random",
        width=8,
        router_hidden=8,
        local_epochs=2,
        router_lr=0.3,
    )
    return Config.from_flat(**{**values, **choices})


def is_personal(simulation, state):
    """Whether two users ever get different orders of items that neither has seen.

    Compares the ten best items of up to 64 users, each against the first user, among those
    that none of the two has in train or validation.
    """
    k = min(simulation.dataset.num_items, 10 + 2 * int(simulation.dataset.train.counts.max()))
    items, scores = simulation.recommend(state, k)
    seen = simulation.dataset.train, simulation.dataset.valid
    owned = lambda user: np.concatenate([part.of(user) for part in seen])
    real = lambda user: items[user][np.isfinite(scores[user])]
    for user in range(1, min(64, simulation.dataset.num_users)):
        both = np.union1d(owned(0), owned(user))
        mine, other = (order[~np.isin(order, both)][:10] for order in (real(0), real(user)))
        size = min(len(mine), len(other))
        if not np.array_equal(mine[:size], other[:size]):
            return True
    return False


@pytest.mark.parametrize(("backbone", "fusion"), mostly_slow(COMBINATIONS, 4))
def test_combination(backbone, fusion, dataset, tmp_path):
    config = small(backbone, fusion, cohort=30, client_dropout=0.3, min_local_epochs=1)
    simulation = make_simulation(config, dataset)
    state = simulation.init()
    before = jax.device_get(state.private)
    started = jax.tree.structure(state), [(x.shape, x.dtype) for x in jax.tree.leaves(state)]

    state, metrics = simulation.run_rounds(state, 1)
    assert metrics.finite.all() and np.isfinite(metrics.loss).all()
    ended = jax.tree.structure(state), [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
    assert started == ended

    # Who was absent keeps every bit; somebody moved, where there is anything to move.
    rows = [np.zeros(len(b), bool) for b in simulation.buckets]
    for moved, old, new in zip(rows, before, state.private, strict=True):
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(jax.device_get(new)), strict=True):
            moved |= (a.reshape(len(a), -1) != b.reshape(len(b), -1)).any(axis=1)
    participants = int(metrics.participants[0])
    assert 0 < participants < 30
    if jax.tree.leaves(state.private):
        assert 0 < sum(map(np.sum, rows)) <= participants

    # A second and a third block of the same length compile nothing.
    compiled = simulation.on_device.run.__wrapped__._cache_size()
    for _ in range(2):
        state, _ = simulation.run_rounds(state, 1)
    assert simulation.on_device.run.__wrapped__._cache_size() == compiled == 1

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state, {})
    checkpoints.wait()
    restored = checkpoints.load(3, jax.eval_shape(lambda: simulation.init()))
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        a, b = (
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
            for x in (a, b)
        )
        assert a.dtype == b.dtype and np.array_equal(a, b)

    ranks = simulation.evaluate(state, "test")
    assert ranks.finite.all()
    # Only plain FedAvg has nothing personal; all others rank differently for two users.
    for _ in range(3):
        state, _ = simulation.run_rounds(state, 5)
    shared_alone = backbone == "fedavg" and fusion != "bilevel"
    assert is_personal(simulation, state) == (not shared_alone)
    weights = simulation.router_weights(state)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)


def test_local_only_training_shares_nothing(dataset):
    """Without a server step, what a client learns does not depend on who else takes part."""
    private = []
    for cohort in (0, 20):
        config = small("fcf", "bilevel", server_optimizer="none", server_decay=3.0, cohort=cohort)
        simulation = make_simulation(config, dataset)
        state = simulation.init()
        shared = jax.device_get(state.server.shared)
        initial = jax.device_get(state.private)
        state, _ = simulation.run_rounds(state, 1)
        for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(state.server.shared), strict=True):
            assert np.array_equal(a, b)
        private.append(jax.device_get(state.private))
    everyone, some = (np.concatenate([b["head"]["vector"] for b in p]) for p in private)
    before = np.concatenate([b["head"]["vector"] for b in initial])
    took_part = (some != before).any(axis=1)
    assert took_part.sum() == 20 and (everyone != before).any(axis=1).all()
    np.testing.assert_allclose(some[took_part], everyone[took_part], rtol=1e-6)


@pytest.mark.parametrize(("backbone", "fusion"), COMBINATIONS)
def test_upload_holds_nothing_private(backbone, fusion, dataset):
    """An upload is gradients of what was broadcast, in its very structure and shapes."""
    simulation = make_simulation(small(backbone, fusion), dataset)
    state = jax.eval_shape(simulation.init)
    history = simulation.on_device.histories[0]
    num_views = len(simulation.model.fusion.names)
    views = jax.ShapeDtypeStruct((dataset.num_items, num_views, 8), jnp.float32)
    rates = simulation.config.federation.rates
    make = functools.partial(make_broadcast, simulation.task, simulation.plan)
    broadcast = jax.eval_shape(make, views, state.server, rates)
    key = jax.random.key(0)
    cohort = make_cohort(
        key, 0, history, jnp.ones(len(history.count), bool), "equal", simulation.config.federation
    )
    train = make_train(simulation.task, simulation.plan)
    alpha = jnp.ones(len(history.count))
    clients = LocalInput(cohort, alpha, state.private[0])
    result = jax.eval_shape(train, broadcast, clients, key)
    received = Upload(broadcast.views, broadcast.head)
    assert jax.tree.structure(result.upload) == jax.tree.structure(received)
    assert [x.shape for x in jax.tree.leaves(result.upload)] == [
        x.shape for x in jax.tree.leaves(received)
    ]


@pytest.mark.parametrize("name", sorted(OPERATORS))
@pytest.mark.slow
def test_operator(name, dataset):
    """A view has the table's width, depends on every modality, and has finite gradients."""
    simulation = make_simulation(small("fcf", "bilevel", views=name), dataset)
    fusion, features = simulation.model.fusion, simulation.features
    items = jax.random.normal(jax.random.key(1), (dataset.num_items, 8))
    gamma = fusion.init_shared(jax.random.key(0))
    views = fusion.views(gamma, items, features)
    assert views.shape == (dataset.num_items, 1, 8) and views.dtype == jnp.float32
    probe = jax.random.normal(jax.random.key(2), views.shape)
    gradient = jax.grad(lambda g, d, f: jnp.sum(probe * fusion.views(g, d, f)), (0, 1, 2))
    by_gamma, by_items, by_features = gradient(gamma, items, features)
    for leaf in jax.tree.leaves((by_gamma, by_items, by_features)):
        assert np.isfinite(leaf).all()
    for source in (by_items, by_features["text"], by_features["image"]):
        assert (jnp.abs(source).max(axis=1) > 0).all()


def test_the_table_is_a_view_as_it_is(dataset):
    fusion = make_simulation(small("fcf", "bilevel", views="table,id"), dataset).model.fusion
    items = jax.random.normal(jax.random.key(1), (dataset.num_items, 8))
    features = {name: jnp.asarray(x) for name, x in dataset.features.items()}
    views = fusion.views(fusion.init_shared(jax.random.key(0)), items, features)
    np.testing.assert_array_equal(views[:, 0], items)
    np.testing.assert_allclose(jnp.mean(views[:, 1], axis=-1), 0, atol=1e-5)


def test_vbpr_adds_the_content_to_the_id_row(dataset):
    simulation = make_simulation(small("fcf", "vbpr"), dataset)
    fusion, features = simulation.model.fusion, simulation.features
    items = jax.random.normal(jax.random.key(1), (dataset.num_items, 8))
    gamma = fusion.init_shared(jax.random.key(0))
    content = np.concatenate([features["image"], features["text"]], axis=1)
    expected = items + content @ gamma["projection"]["kernel"]
    np.testing.assert_allclose(fusion.views(gamma, items, features)[:, 0], expected, rtol=1e-4)
    plain = make_fusion("vbpr", views=(), width=8, hidden=8, widths={})
    np.testing.assert_array_equal(
        plain.views(plain.init_shared(jax.random.key(0)), items, {})[:, 0], items
    )


def test_plan_follows_the_cost_rule(dataset):
    plans = {"fcf": "dense", "pfedrec": "dense", "fedrap": "factored", "fedncf": "catalogue"}
    for backbone, expected in plans.items():
        task = make_simulation(small(backbone, "bilevel"), dataset).task
        assert choose_plan(task, [30], [40]) == expected
    # A bound on the upload asks for each client's own.
    bounded = make_simulation(small("fedrap", "bilevel", clip_norm=1.0), dataset)
    assert bounded.plan == "gathered"
    # Few touched rows of a large catalogue are gathered.
    large = load_dataset("synthetic", data_root="", synthetic={"users": 20, "items": 20000})
    config = small("fcf", "bilevel", negatives="sampled", num_negatives=1, local_epochs=1)
    assert make_simulation(config, large).plan == "gathered"


def test_views_are_those_that_the_data_have(dataset):
    def names(data, init="random"):
        return make_simulation(small("fcf", "bilevel", init=init), data).model.fusion.names

    assert names(dataset) == ("id", "text", "image")
    assert names(dataset, "auto") == names(dataset, "spectral") == ("table", "text", "image")
    images = {"image": dataset.features["image"]}
    assert names(dataclasses.replace(dataset, features=images)) == ("id", "image")
    assert names(dataclasses.replace(dataset, features={})) == ("id",)


@pytest.mark.parametrize("name", ["table", "auto", "mlp"])
def test_a_modality_called_like_a_view_is_refused(name, dataset):
    odd = dataclasses.replace(dataset, features={name: dataset.features["image"]})
    with pytest.raises(InputError, match=f"modality '{name}': another view has this name"):
        make_simulation(small("fcf", "bilevel"), odd)


@pytest.mark.parametrize(
    "choice", [{"rounds": "3"}, {"rounds": 2.5}, {"width": True}, {"baselines": 1}, {"views": 3}]
)
def test_a_value_of_another_type_is_refused(choice):
    with pytest.raises(InputError, match=rf"{next(iter(choice))}=.*: give a value of type"):
        Config.from_flat(**choice)
    flat = Config.from_flat(rounds=np.int32(3), client_lr=np.float32(1)).flat
    assert json.loads(json.dumps(flat)) == Config.from_flat(rounds=3, client_lr=1.0).flat


def test_an_unknown_option_is_named_with_those_alike():
    with pytest.raises(InputError, match=r"unknown option roundz; did you mean rounds\b"):
        Config.from_flat(roundz=3)
    with pytest.raises(InputError, match="unknown option xyzzy; known are aggregation, attack"):
        Config.from_flat(xyzzy=3)
