"""The synthetic data have the planted structure and depend only on the seed and the options."""

import itertools

import numpy as np
import pytest

from fedvlr_jax.data import additive, clusters, load_dataset, splits, synthetic
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.baselines import baselines_of, rank, scores_of
from fedvlr_jax.evaluation.metrics import user_metrics


@pytest.fixture(scope="module")
def data():
    return synthetic.generate()


def test_shapes_types_and_order(data):
    assert data.planted.shape == (1000, 3) and data.planted.dtype == np.float32
    np.testing.assert_allclose(data.planted.sum(axis=1), 1, atol=1e-6)
    assert list(data.features) == ["text", "image"]
    assert data.features["text"].shape == (2000, 48)
    assert data.features["image"].shape == (2000, 64)
    for feature in data.features.values():
        assert feature.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(feature, axis=1), 1, atol=1e-5)
    assert data.split == "leave-one-out"
    assert data.user_ids[-1] == "999" and data.item_ids[-1] == "1999"


def test_leave_one_out_in_draw_order(data):
    assert (data.valid.counts == 1).all() and (data.test.counts == 1).all()
    assert (data.train.counts >= 3).all()
    parts = (data.train, data.valid, data.test)
    user = np.concatenate([part.users for part in parts]).astype(np.int64)
    item = np.concatenate([part.item for part in parts]).astype(np.int64)
    time = np.concatenate([part.time for part in parts])
    expected = np.repeat([0, 1, 2], [len(part) for part in parts])
    assert np.array_equal(splits.leave_one_out(user, time), expected)
    assert len(np.unique(user * data.num_items + item)) == len(user)


def test_activity_and_popularity_have_long_tails(data):
    counts = data.train.counts + 2
    assert 15 < counts.mean() < 25 and counts.max() > 4 * np.median(counts)
    popularity = np.sort(data.train.item_counts)[::-1]
    assert popularity[:200].sum() > 0.25 * popularity.sum()


def _relative_rank(data, score):
    """The fraction of the items, without train items, that rank before the test item."""
    score = score.astype(np.float64).copy()
    score[data.train.users, data.train.item] = -np.inf
    target = score[np.arange(data.num_users), data.test.item]
    return (score > target[:, None]).mean(axis=1)


def _history(data):
    history = np.zeros((data.num_users, data.num_items), np.float32)
    history[data.train.users, data.train.item] = 1
    return history


@pytest.mark.parametrize("modality, column", [("text", 1), ("image", 2)])
def test_content_predicts_the_users_planted_on_it_and_no_others(data, modality, column):
    feature = data.features[modality]
    rank = _relative_rank(data, _history(data) @ np.maximum(feature @ feature.T, 0) ** 4)
    planted = data.planted[:, column] > 0.8
    others = data.planted[:, column] < 0.1
    assert planted.sum() > 50
    assert np.median(rank[planted]) < 0.1
    assert np.median(rank[others]) > 0.3


def test_the_id_factor_is_learnable_from_co_occurrence_only(data):
    history = _history(data)
    together = history.T @ history
    np.fill_diagonal(together, 0)
    norm = np.sqrt(np.maximum(history.sum(axis=0), 1))
    neighbours = _relative_rank(data, history @ (together / norm / norm[:, None]))
    popularity = _relative_rank(data, np.tile(history.sum(axis=0), (data.num_users, 1)))
    planted = data.planted[:, 0] > 0.8
    assert neighbours[planted].mean() < 0.8 * popularity[planted].mean()
    assert (neighbours * data.num_items < 50).mean() > (popularity * data.num_items < 50).mean()
    for feature in data.features.values():
        rank = _relative_rank(data, history @ np.maximum(feature @ feature.T, 0) ** 4)
        assert np.median(rank[planted]) > 0.3


def test_the_data_do_not_depend_on_the_chunk(monkeypatch):
    whole = synthetic.generate(users=97, items=60, seed=5)
    monkeypatch.setattr(clusters, "_SLOTS_A_CHUNK", 101)
    chunked = synthetic.generate(users=97, items=60, seed=5)
    assert whole.fingerprint == chunked.fingerprint
    assert np.array_equal(whole.train.time, chunked.train.time)


def test_the_data_of_a_seed_are_fixed():
    data = synthetic.generate(users=50, items=80, seed=3)
    assert data.fingerprint == ("44507450c4c5a72f2d72934a63ffc63ba8c02edc8c6df3dffd3de8859a9d030c")
    assert data.fingerprint != synthetic.generate(users=50, items=80, seed=4).fingerprint


@pytest.mark.parametrize("seed", range(5))
def test_the_smallest_data_set_is_whole(seed):
    data = synthetic.generate(users=10, items=50, seed=seed, mean_history=5)
    assert (data.train.counts >= 3).all()
    assert (data.train.counts + 2 <= 50 // 4).all()


@pytest.mark.parametrize(
    "argument",
    [
        {"users": 9},
        {"users": 2.5},
        {"users": True},
        {"items": 49},
        {"seed": -1},
        {"seed": 2**64},
        {"text_width": 1},
        {"image_width": "64"},
        {"mean_history": 4},
        {"mean_history": float("nan")},
        {"mean_history": "20"},
    ],
)
def test_an_argument_out_of_range_is_named(argument):
    with pytest.raises(InputError, match=f"synthetic {next(iter(argument))}: found"):
        synthetic.generate(**argument)


def test_load_dataset_reaches_the_generator():
    data = load_dataset("synthetic", data_root="unused", synthetic={"users": 20, "items": 60})
    assert (data.num_users, data.num_items) == (20, 60)
    with pytest.raises(InputError, match="unknown option 'user'"):
        load_dataset("synthetic", data_root="unused", synthetic={"user": 20})
    with pytest.raises(InputError, match="global-time"):
        load_dataset("synthetic", data_root="unused", split="global-time")
    with pytest.raises(InputError, match="takes no synthetic options"):
        load_dataset("other", data_root="unused", synthetic={"users": 20})


def skill(data, name):
    """NDCG@50 of a baseline at its default setting, [users]."""
    scorer = scores_of(baselines_of(data)[name].prepare(data)(), data)
    ranks = rank(scorer, data, "test")
    return user_metrics(ranks.ahead, ranks.tied, data.test, ks=(50,))["ndcg@50"]


@pytest.mark.parametrize("kind", ["planted", "additive", "equal", "no-content"])
def test_what_each_kind_can_show(kind):
    data = synthetic.generate(kind=kind, users=400, items=300)
    assert data.num_users == 400 and (data.valid.counts == 1).all()
    assert (data.planted is None) == (kind in ("equal", "no-content"))
    chance, content = skill(data, "random").mean(), skill(data, "content_knn_all").mean()
    assert content < 1.3 * chance if kind == "no-content" else content > 1.5 * chance
    assert skill(data, "ease").mean() > 1.5 * chance


def test_in_the_additive_kind_content_helps_those_who_weigh_it():
    data = synthetic.generate(kind="additive", users=800, items=300)
    ndcg, weight = skill(data, "content_knn_all"), data.planted[:, 1:].sum(axis=1)
    assert ndcg[weight > 0.8].mean() > 1.5 * ndcg[weight < 0.4].mean()


def test_kinds_share_what_they_do_not_change():
    kinds = ("planted", "no-content")
    planted, without = (synthetic.generate(kind=kind, users=50, items=80) for kind in kinds)
    np.testing.assert_array_equal(planted.train.item, without.train.item)
    assert not np.array_equal(planted.features["text"], without.features["text"])


def test_the_additive_kind_does_not_depend_on_its_chunks(monkeypatch):
    whole = synthetic.generate(kind="additive", users=33, items=60)
    monkeypatch.setattr(additive, "_SCORES_A_CHUNK", 60 * 5)
    assert synthetic.generate(kind="additive", users=33, items=60).fingerprint == whole.fingerprint


def test_what_a_kind_cannot_be(monkeypatch):
    with pytest.raises(InputError, match="synthetic kind: found 'odd', expected one of planted"):
        synthetic.generate(kind="odd")
    monkeypatch.setattr(additive, "MOST_SCORES", 100)
    with pytest.raises(InputError, match="10 users x 50 items are more than 100 scores"):
        synthetic.generate(kind="additive", users=10, items=50)


def test_a_permuted_order_keeps_each_users_items_and_times():
    options = {"users": 30, "items": 60}
    plain = load_dataset("synthetic", data_root="", synthetic=options)
    load = lambda **given: load_dataset("synthetic", data_root="", synthetic=options, **given)
    permuted, other = load(permute_order=2), load(permute_order=3)
    np.testing.assert_array_equal(plain.train.item, permuted.train.item)
    np.testing.assert_array_equal(plain.test.time, permuted.test.time)
    assert not np.array_equal(plain.train.time, permuted.train.time)
    assert not np.array_equal(other.train.time, permuted.train.time)
    for first, end in itertools.pairwise(plain.train.indptr):
        own = permuted.train.time[first:end]
        np.testing.assert_array_equal(np.sort(own), np.sort(plain.train.time[first:end]))
    assert "seed 2" in permuted.notes[-1]
    # The weights of --recency follow the new order.
    recent = load(permute_order=2, recency=1.0).train
    np.testing.assert_array_equal(recent.weight, permuted.train.weighted_by_recency(1.0).weight)


def test_permuted_features_change_places_and_nothing_else():
    options = {"users": 30, "items": 60}
    plain = load_dataset("synthetic", data_root="", synthetic=options)
    permuted = load_dataset("synthetic", data_root="", synthetic=options, permute_features=2)
    np.testing.assert_array_equal(plain.train.item, permuted.train.item)
    for name, rows in permuted.features.items():
        assert not np.array_equal(rows, plain.features[name])
        np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(plain.features[name], axis=0))
    # All modalities have one permutation.
    place = lambda name: [
        int(np.flatnonzero((plain.features[name] == row).all(axis=1))[0])
        for row in permuted.features[name]
    ]
    assert place("text") == place("image")
