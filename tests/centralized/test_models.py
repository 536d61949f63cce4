"""Every model of the registry: shapes, gradients, repeatability, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.centralized import CENTRALIZED, CentralizedConfig, make_centralized
from fedvlr_jax.config import EvaluationConfig
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.baselines import rank, scores_of
from fedvlr_jax.evaluation.baselines.registry import baselines_of
from fedvlr_jax.evaluation.metrics import averages

WIDTH = 8
EVALUATION = EvaluationConfig(ks="10,50", eval_every=10, patience=0)
RATE = 0.03


def make(name, dataset, evaluation=EVALUATION, epochs=20):
    config = CentralizedConfig(model=name, width=WIDTH, batch_size=150, epochs=epochs)
    return make_centralized(config, evaluation, dataset)


def in_groups(groups=5, users=8, items=16, history=6):
    """Every user likes the items of one group only, and the features show the group."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(groups), items)
    parts = {part: [] for part in ("train", "valid", "test")}
    for user in range(groups * users):
        liked = rng.choice(np.flatnonzero(group == user // users), history + 2, replace=False)
        for part, chosen in zip(parts, (liked[:history], liked[-2:-1], liked[-1:]), strict=True):
            parts[part] += [(user, item) for item in chosen]
    count = {"num_users": groups * users, "num_items": len(group)}
    pairs = {name: np.array(part).T for name, part in parts.items()}
    build = lambda pair: Interactions.from_pairs(
        user=pair[0], item=pair[1], time=np.arange(len(pair[0])), **count
    )
    features = {
        name: rng.normal(size=(groups, width))[group] + 0.3 * rng.normal(size=(len(group), width))
        for name, width in (("image", 6), ("text", 4))
    }
    return Dataset(
        name="groups",
        **{name: build(pair) for name, pair in pairs.items()},
        features={name: x.astype(np.float32) for name, x in features.items()},
        user_ids=np.arange(count["num_users"]).astype(str),
        item_ids=np.arange(count["num_items"]).astype(str),
        split="predefined",
    )


@pytest.fixture(scope="module")
def dataset():
    return in_groups()


@pytest.fixture(scope="module")
def trainers(dataset):
    """Each model is compiled once for all tests."""
    return {name: make(name, dataset) for name in CENTRALIZED}


@pytest.fixture(scope="module")
def results(trainers):
    return {name: trainer.fit(0, RATE, {}) for name, trainer in trainers.items()}


def ndcg_at_10(ranks, dataset):
    return averages(ranks.ahead, ranks.tied, dataset, "test", (10,))["ndcg@10"]


def data_of(model):
    return {**model.data, "weights": {name: jnp.float32(x) for name, x in model.weights.items()}}


@pytest.mark.parametrize("name", CENTRALIZED)
def test_shapes_and_finite_gradients_of_all_parameters(name, dataset):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        model = CENTRALIZED[name](dataset, width=WIDTH)
        assert model.grid[0] in model.weights and len(model.grid[1]) == 3
        data = data_of(model)
        data["weights"] = {name: jnp.float32(0.1) for name in model.weights}
        params = jax.jit(model.init)(jax.random.key(0))
        users, items = jax.jit(model.embeddings)(params, data)
        batches = model.batches(dataset.train, "seen", 50)
        rows = jnp.arange(batches.size)

        @jax.jit
        def gradient(params, data, arrays, key):
            batch = batches.draw(key, arrays, rows)
            data = model.prepare(data, key)
            return jax.grad(model.loss)(params, data, batch, key)

        found = gradient(params, data, batches.arrays, jax.random.key(1))
    assert users.shape[0] == dataset.num_users and items.shape[0] == dataset.num_items
    assert users.shape[1] == items.shape[1] and users.dtype == items.dtype == jnp.float32
    for path, leaf in jax.tree.leaves_with_path(found):
        assert np.isfinite(leaf).all(), path
        # Only VBPR's bias moves no ranking at all; it still has a gradient through the norm.
        assert np.abs(leaf).max() > 0, f"{jax.tree_util.keystr(path)} is not trained"


@pytest.mark.parametrize("name", CENTRALIZED)
def test_learns_what_popularity_cannot_know(name, dataset, results):
    popularity = baselines_of(dataset)["popularity"].prepare(dataset)()
    popular = ndcg_at_10(rank(scores_of(popularity, dataset), dataset, "test"), dataset)
    # Who knows the group, and nothing else, ranks the target among the 9 items of it that are
    # not masked: the mean of 1 / log2(1 + r) over r = 1..9 is 0.47.
    assert popular < 15 < 25 < ndcg_at_10(results[name].ranks["test"], dataset)


@pytest.mark.parametrize("name", CENTRALIZED)
def test_a_seed_repeats_to_the_bit_and_another_one_differs(name, trainers, results):
    again, other = (trainers[name].fit(seed, RATE, {}) for seed in (0, 1))
    assert results[name].evaluations == again.evaluations != other.evaluations
    for part in ("valid", "test"):
        np.testing.assert_array_equal(results[name].ranks[part].ahead, again.ranks[part].ahead)


def test_pgl_trains_on_a_part_of_the_graph_and_recommends_on_all_of_it(dataset):
    model = CENTRALIZED["pgl"](dataset, width=WIDTH)
    data = data_of(model)
    part = model.prepare(data, jax.random.key(0))
    other = model.prepare(data, jax.random.key(1))
    whole, first, second = (np.asarray(d["graph"].to_users) > 0 for d in (data, part, other))
    assert whole.sum() == len(dataset.train)
    assert first.sum() == second.sum() == int(0.3 * len(dataset.train))
    assert not (first & ~whole).any() and not np.array_equal(first, second)


def test_the_protocol_sets_the_mask(dataset):
    """At test, validation items are candidates under the paper's protocol alone."""
    results = {}
    for protocol in ("paper", "strict"):
        evaluation = EvaluationConfig(ks="50", protocol=protocol)
        # No step is long enough to move anything: both rank by the initial vectors.
        results[protocol] = make("vbpr", dataset, evaluation, epochs=1).fit(0, 1e-30, {})
    paper, strict = (results[name].ranks["test"].ahead for name in ("paper", "strict"))
    assert ((paper - strict == 0) | (paper - strict == 1)).all() and (paper > strict).any()
    np.testing.assert_array_equal(*(results[p].ranks["valid"].ahead for p in results))


def test_the_best_epoch_is_tested_and_patience_stops(dataset):
    evaluation = EvaluationConfig(ks="50", eval_every=1, patience=2)
    result = make("vbpr", dataset, evaluation).fit(0, 0.3, {})
    reached = [entry["valid"]["ndcg@50"] for entry in result.evaluations]
    assert result.best_epoch == 1 + int(np.argmax(reached))
    valid = result.ranks["valid"]
    found = averages(valid.ahead, valid.tied, dataset, "valid", (50,))["ndcg@50"]
    assert found == pytest.approx(max(reached), rel=1e-12)
    assert result.stopped == "patience"
    assert len(reached) == result.epochs_run == result.best_epoch + 2


def test_divergence_is_said(trainers):
    result = trainers["vbpr"].fit(0, 1e38, {})
    assert (result.stopped, result.best_epoch, result.ranks) == ("diverged", 0, {})


def test_what_cannot_be_used_is_refused(dataset, trainers):
    with pytest.raises(InputError, match="model=bprr"):
        CentralizedConfig(model="bprr")
    with pytest.raises(InputError, match="learning_rate=nan"):
        CentralizedConfig(learning_rate=float("nan"))
    with pytest.raises(InputError, match="needs item features"):
        make("mgcn", dataclasses.replace(dataset, features={}))
    broken = {"text": np.full((dataset.num_items, 3), np.nan, np.float32)}
    with pytest.raises(InputError, match="text feature of item 0 is not finite"):
        make("vbpr", dataclasses.replace(dataset, features=broken))
    with pytest.raises(InputError, match="vbpr has no 'contrast'"):
        trainers["vbpr"].fit(0, RATE, {"contrast": 1.0})
