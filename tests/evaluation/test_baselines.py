"""Baselines on a small catalogue by hand and by loops; the known numbers of KU and ML."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from fedvlr_jax.data import load_dataset
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation import baselines
from fedvlr_jax.evaluation.baselines import BASELINES, evaluate_baselines, rank
from fedvlr_jax.evaluation.metrics import user_metrics
from fedvlr_jax.evaluation.significance import paired_test

EVERYONE = slice(None)


def interactions(rows, num_items):
    user = [u for u, row in enumerate(rows) for _ in row]
    item = [i for row in rows for i in row]
    return Interactions.from_pairs(user=user, item=item, num_users=len(rows), num_items=num_items)


def dataset(train, valid, test, num_items, features=None):
    return Dataset(
        name="toy",
        train=interactions(train, num_items),
        valid=interactions(valid, num_items),
        test=interactions(test, num_items),
        features=features or {},
        user_ids=np.arange(len(train)).astype(str),
        item_ids=np.arange(num_items).astype(str),
        split="predefined",
    )


def random_dataset(num_users, num_items, seed=0):
    """Items 0 and 1 have equal train columns; the last item is never in train."""
    rng = np.random.default_rng(seed)
    train, valid, test = [], [], []
    for _ in range(num_users):
        items = rng.permutation(np.arange(1, num_items - 1))[:7].tolist()
        train.append(items[:5] + ([0] if 1 in items[:5] else []))
        valid.append([items[5]])
        test.append([items[6], num_items - 1])
    features = {
        "text": rng.normal(size=(num_items, 4)).astype(np.float32) + 3,
        "image": rng.normal(size=(num_items, 6)).astype(np.float32),
    }
    return dataset(train, valid, test, num_items, features)


@pytest.fixture
def toy():
    """Train counts of the five items: 1, 3, 1, 2, 0."""
    return dataset([[0, 1], [1, 3], [1, 2, 3]], [[2], [0], [0]], [[4], [4], [4]], 5)


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("random", [0, 0, 0, 0, 0]),
        ("popularity", [1, 3, 1, 2, 0]),
        ("least_popular", [-1, -3, -1, -2, 0]),
        ("ascending_id", [0, -1, -2, -3, -4]),
        ("unseen_first", [0, 0, 0, 0, 1]),
    ],
)
def test_scores_that_are_the_same_for_all_users(toy, name, scores):
    np.testing.assert_array_equal(BASELINES[name](toy)(EVERYONE), [scores] * 3)


def literal_knn(train, similarity):
    users, items = train.shape
    scores = np.zeros((users, items))
    for u in range(users):
        for i in range(items):
            for j in range(items):
                if train[u, j]:
                    scores[u, i] += similarity(i, j)
    return scores


def cosine(a, b):
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / norms if norms else 0.0


def dense(part):
    matrix = np.zeros((part.num_users, part.num_items))
    matrix[part.users, part.item] = 1
    return matrix


def test_item_knn_by_hand(toy):
    # Item 1 has users {0, 1, 2}, item 3 users {1, 2}, item 0 user 0, item 2 user 2.
    # User 0 has items 0 and 1. Item 2: cos(2, 0) + cos(2, 1) = 0 + 1 / sqrt(1 * 3);
    # item 3: 0 + 2 / sqrt(2 * 3); item 4 is like nothing.
    scores = BASELINES["item_knn"](toy)(slice(0, 1))[0]
    np.testing.assert_allclose(scores[2:], [1 / np.sqrt(3), 2 / np.sqrt(6), 0])


def test_item_knn_against_a_literal_loop():
    data = random_dataset(12, 15)
    train = dense(data.train)
    expected = literal_knn(train, lambda i, j: cosine(train[:, i], train[:, j]))
    np.testing.assert_allclose(baselines.item_knn(data)(EVERYONE), expected, atol=1e-12)


def test_content_knn_against_a_literal_loop():
    data = random_dataset(12, 15)
    feature = data.features["text"].astype(float)
    feature -= feature.mean(axis=0)
    expected = literal_knn(dense(data.train), lambda i, j: cosine(feature[i], feature[j]))
    found = baselines.content_knn(data, "text")(EVERYONE)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_content_knn_knows_nothing_of_an_item_that_has_the_mean_feature():
    data = random_dataset(12, 15)
    feature = data.features["text"].copy()
    feature[3] = np.delete(feature, 3, axis=0).mean(axis=0)
    data = dataclasses.replace(data, features={"text": feature})
    assert not baselines.content_knn(data, "text")(EVERYONE)[:, 3].any()


def literal_ease(train, l2):
    """Ridge regression of every item's column on all the other columns."""
    items = train.shape[1]
    weights = np.zeros((items, items))
    for j in range(items):
        others = np.delete(np.arange(items), j)
        x = train[:, others]
        weights[others, j] = np.linalg.solve(x.T @ x + l2 * np.eye(items - 1), x.T @ train[:, j])
    return train @ weights


@pytest.mark.parametrize("num_users", [8, 40], ids=["fewer users", "fewer items"])
@pytest.mark.parametrize("l2", [1, 300])
def test_ease_is_the_ridge_regression_of_each_item_on_the_others(num_users, l2):
    data = random_dataset(num_users, 15)
    expected = literal_ease(dense(data.train), l2)
    np.testing.assert_allclose(baselines.ease(data, l2)(EVERYONE), expected, atol=1e-10)


@pytest.mark.parametrize("num_users", [12, 40])
@pytest.mark.parametrize("make", [baselines.item_knn, lambda data: baselines.ease(data, 10)])
def test_what_train_cannot_tell_apart_ties(make, num_users):
    data = random_dataset(num_users, 15)
    # Item 0 has the train column of item 1, and item 14 has none.
    without = dense(data.train)[:, :2].sum(axis=1) == 0
    assert without.any()
    scores = np.asarray(make(data)(EVERYONE), np.float32)
    np.testing.assert_array_equal(scores[without, 0], scores[without, 1])
    assert not scores[:, 14].any()


def test_only_train_interactions_and_features_are_used():
    data, other = random_dataset(12, 15), random_dataset(12, 15, seed=1)
    changed = dataclasses.replace(data, valid=other.valid, test=other.test)
    makers = [*BASELINES.values(), lambda d: baselines.content_knn(d, "text")]
    for make in [*makers, lambda d: baselines.ease(d, 10)]:
        np.testing.assert_array_equal(make(data)(EVERYONE), make(changed)(EVERYONE))


def test_the_mask_of_validation_and_of_test(toy):
    scorer = BASELINES["random"](toy)
    # User 0: five items, two of them in train, one more in valid; the target is not its
    # own rival. So 5 - 2 - 1 = 2 tied rivals, and one fewer where valid is masked too.
    assert rank(scorer, toy, "valid", "train+valid").tied[0] == 2
    assert rank(scorer, toy, "test", "train").tied[0] == 2
    assert rank(scorer, toy, "test", "train+valid").tied[0] == 1


def test_an_unknown_mask_is_named(toy):
    with pytest.raises(InputError, match=r"mask: found 'test', expected one of"):
        evaluate_baselines(toy, "test")


def test_features_that_are_not_finite_are_named():
    data = random_dataset(12, 15)
    data.features["text"][4, 0] = np.nan
    with pytest.raises(InputError, match=r"toy: the baseline's scores of user 0 are not finite"):
        evaluate_baselines(data)


def test_the_size_of_the_chunks_does_not_matter(monkeypatch):
    data = random_dataset(13, 15)
    whole = rank(baselines.ease(data, 10), data, "test")
    monkeypatch.setattr(baselines, "CHUNK_BYTES", 24 * 15 * 5)
    for part, expected in zip(rank(baselines.ease(data, 10), data, "test"), whole, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_every_baseline_has_a_summary_and_ranks_of_every_user():
    data = random_dataset(12, 15)
    results = evaluate_baselines(data, "train", (10, 50))
    names = [*BASELINES, "content_knn_text", "content_knn_image", "ease"]
    assert list(results.summary) == list(results.ranks) == names
    for name in names:
        assert {"valid", "test"} <= results.summary[name].keys()
        assert results.summary[name]["test"]["users"] == 12
        assert results.ranks[name]["test"].ahead.shape == (len(data.test),)
        assert results.ranks[name]["valid"].finite.all()


def test_random_earns_exactly_chance():
    data = random_dataset(12, 70)
    found = evaluate_baselines(data, "train").summary["random"]["valid"]
    candidates = 70 - data.train.counts
    assert found["hr@50"] == pytest.approx(100 * np.mean(50 / candidates))
    assert found["precision@10"] == pytest.approx(100 * np.mean(1 / candidates))


def test_the_l2_of_ease_has_the_best_validation_ndcg():
    data = random_dataset(40, 80)
    ndcg = []
    for l2 in baselines.EASE_L2:
        ranks = rank(baselines.ease(data, l2), data, "valid")
        metrics = user_metrics(ranks.ahead, ranks.tied, data.valid, ks=(50,))
        ndcg.append(metrics["ndcg@50"].mean())
    best = baselines.EASE_L2[int(np.argmax(ndcg))]
    entry = evaluate_baselines(data).summary["ease"]
    assert entry["l2"] == best
    assert entry["valid"]["ndcg@50"] == pytest.approx(100 * max(ndcg))


@pytest.mark.parametrize("num_users", [12, 40])
def test_recent_baselines_score_the_weighted_histories(num_users):
    data = random_dataset(num_users, 20)
    weight = np.random.default_rng(0).uniform(0.5, 1.5, len(data.train)).astype(np.float32)
    data = dataclasses.replace(data, train=dataclasses.replace(data.train, weight=weight))
    train, weighted = data.train.matrix.toarray(), data.train.weighted_matrix.toarray()
    inverse = np.linalg.inv(train.T @ train + 3 * np.eye(20))
    expected = weighted @ (np.eye(20) - inverse / inverse.diagonal())
    found = baselines.ease(data, 3, recent=True)(EVERYONE)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    unit = train / np.sqrt(np.maximum(train.sum(axis=0), 1))
    found = baselines.item_knn(data, recent=True)(EVERYONE)
    np.testing.assert_allclose(found, weighted @ (unit.T @ unit), atol=1e-9)
    assert list(evaluate_baselines(data).summary)[-2:] == ["item_knn_recent", "ease_recent"]


def test_a_large_catalogue_skips_what_would_not_fit(monkeypatch):
    monkeypatch.setattr(baselines, "LARGEST_CATALOGUE", {"item_knn": 14, "ease": 15})
    results = evaluate_baselines(random_dataset(12, 15))
    assert results.summary["item_knn"] == {"skipped": "15 items; item_knn is evaluated up to 14"}
    assert "item_knn" not in results.ranks
    assert "ease" in results.ranks


def real(name):
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("FEDVLR_DATA_ROOT", beside))
    if not (root / name).is_dir():
        pytest.skip(f"real data set {name} is not in {root}; set FEDVLR_DATA_ROOT to its folder")
    return load_dataset(name, data_root=root)


@pytest.fixture(scope="module")
def ku():
    return evaluate_baselines(real("KU"), "train")


@pytest.fixture(scope="module")
def ml():
    return evaluate_baselines(real("ML"), "train")


def headline(summary):
    return summary["hr@50"], summary["ndcg@50"]


# HR@50 and NDCG@50 of the test part in percent, mask train: over all 204 users, and over
# the 116 whose target is an item of train.
KU = {
    "random": (9.29, 2.40, 9.39, 2.42),
    "popularity": (19.20, 5.50, 33.76, 9.68),
    "least_popular": (69.41, 21.92, 46.20, 9.60),
    "ascending_id": (55.39, 15.97, 42.24, 11.20),
    "unseen_first": (46.88, 17.21, 6.59, 1.32),
    "item_knn": (40.70, 18.64, 66.76, 31.72),
}
ML = {
    "random": (1.43, 0.37),
    "popularity": (11.07, 3.51),
    "least_popular": (4.09, 1.40),
    "item_knn": (19.18, 5.27),
}


@pytest.mark.parametrize("name", KU)
def test_known_numbers_of_ku(ku, name):
    found = ku.summary[name]["test"]
    assert (*headline(found), *headline(found["warm"])) == pytest.approx(KU[name], abs=0.01)
    assert (found["warm"]["users"], found["cold"]["users"]) == (116, 88)


@pytest.mark.parametrize("name", ML)
def test_known_numbers_of_ml(ml, name):
    found = ml.summary[name]["test"]
    assert headline(found) == pytest.approx(ML[name], abs=0.01)
    assert (found["users"], found["cold"]) == (610, {"users": 0})


# EASE's scores depend on the library of the matrix inverse in their last bits: one user
# may cross the cut, 0.5 points of HR on KU and 0.2 on ML.
def test_known_numbers_of_ease_on_ku(ku):
    assert ku.summary["ease"]["l2"] == 100
    found = ku.summary["ease"]["test"]
    assert headline(found) == pytest.approx((49.11, 19.99), abs=0.5)
    assert headline(found["warm"]) == pytest.approx((81.51, 34.09), abs=0.9)


def test_known_numbers_of_ease_on_ml(ml):
    assert ml.summary["ease"]["l2"] == 300
    assert headline(ml.summary["ease"]["test"]) == pytest.approx((27.87, 7.65), abs=0.2)


def test_the_ranks_serve_paired_tests(ml):
    test = real("ML").test
    ease, popularity = (
        user_metrics(ranks.ahead, ranks.tied, test)["ndcg@50"]
        for ranks in (ml.ranks["ease"]["test"], ml.ranks["popularity"]["test"])
    )
    result = paired_test(ease, popularity)
    assert result.users == 610
    assert result.mean_difference == pytest.approx(0.0765 - 0.0351, abs=0.003)
    assert result.p_value < 1e-6
