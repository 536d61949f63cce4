"""Recency weights, and fingerprints of data sets."""

import dataclasses

import numpy as np
import pytest

from fedvlr_jax.data import dataset as data
from fedvlr_jax.data.cohorts import multi_hot, pad_histories
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError


def test_recent_entries_count_more_and_equal_times_alike():
    train = Interactions.from_pairs(
        user=np.array([0, 0, 0, 1, 1, 1, 1, 2]),
        item=np.array([4, 1, 2, 0, 1, 3, 4, 2]),
        time=np.array([10, 30, 20, 7, 9, 7, 5, 1]),
        num_users=3,
        num_items=5,
    ).weighted_by_recency(0.5)
    # From newest to oldest: user 0 has the items 1, 2, 4; user 1 has 1, then 0 and 3 at one time,
    # then 4.
    first = np.array([1, 1 / np.sqrt(2), 1 / np.sqrt(3)])
    second = np.array([1 / np.sqrt(2.5), 1, 1 / np.sqrt(2.5), 1 / np.sqrt(4)])
    expected = np.concatenate([first / first.mean(), second / second.mean(), [1]])
    assert train.weight is not None
    np.testing.assert_allclose(train.weight, expected, rtol=1e-6)
    dense = np.zeros((3, 5))
    dense[[0, 0, 0, 1, 1, 1, 1, 2], [1, 2, 4, 0, 1, 3, 4, 2]] = expected
    np.testing.assert_allclose(train.weighted_matrix.toarray(), dense, rtol=1e-6)
    histories = pad_histories(train, np.array([2, 0]), size=3, length=6)
    np.testing.assert_allclose(multi_hot(histories, 5)[:2], dense[[2, 0]], rtol=1e-6)
    assert not np.any(multi_hot(histories, 5)[2])


def test_weights_are_data():
    sizes = {"users": 20, "items": 60}
    plain = load_dataset("synthetic", data_root="", synthetic=sizes)
    recent = load_dataset("synthetic", data_root="", synthetic=sizes, recency=1.0)
    assert plain.train.weight is None
    assert plain.fingerprint != recent.fingerprint


def test_times_are_data():
    """The closed form may weight recent items, so other times are another run."""
    plain = load_dataset("synthetic", data_root="", synthetic={"users": 20, "items": 60})
    timed = lambda time: (
        dataclasses.replace(plain, train=dataclasses.replace(plain.train, time=time)).fingerprint
    )
    assert timed(plain.train.time[::-1].copy()) != plain.fingerprint
    assert timed(plain.train.time * 1000 + 7) == plain.fingerprint


@pytest.mark.parametrize("at_once", [1, 7, 20, 1000])
def test_the_age_does_not_depend_on_the_users_that_are_sorted_at_once(at_once, monkeypatch):
    train = load_dataset("synthetic", data_root="", synthetic={"users": 20, "items": 60}).train
    train = dataclasses.replace(train, time=train.time // 3)
    expected = [
        np.mean([sum(other > time for other in own), sum(other >= time for other in own) - 1])
        for own in np.split(train.time, train.indptr[1:-1])
        for time in own
    ]
    monkeypatch.setattr(data, "USERS_AT_ONCE", at_once)
    np.testing.assert_array_equal(train.age, expected)


def test_the_least_and_the_largest_time_have_an_age():
    info = np.iinfo(np.int64)
    train = data.Interactions.from_pairs(
        user=np.zeros(3, int),
        item=np.arange(3),
        time=np.array([info.min, info.max, 0]),
        num_users=1,
        num_items=3,
    )
    np.testing.assert_array_equal(train.age, [2, 0, 1])


def test_without_times_nothing_is_recent(tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    rows = [f"{u},{(u + i) % 9},{min(i, 2)}" for u in range(4) for i in range(5)]
    (folder / "inter.csv").write_text("userID,itemID,split_label\n" + "\n".join(rows) + "\n")
    assert load_dataset("toy", data_root=tmp_path).num_users == 4
    with pytest.raises(InputError, match=r"recency=0\.5: the data set 'toy' has no time stamps"):
        load_dataset("toy", data_root=tmp_path, recency=0.5)
    with pytest.raises(InputError, match=r"permute_order=1: the data set 'toy' has no time"):
        load_dataset("toy", data_root=tmp_path, permute_order=1)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("permute_features", -1),
        ("permute_order", -1),
        ("recency", -0.5),
        ("recency", 3),
        ("recency", np.nan),
    ],
)
def test_a_number_out_of_range_is_named(option, value):
    sizes = {"users": 10, "items": 50}
    words = f"{option}={value}: out of range; give a finite number of at least 0"
    with pytest.raises(InputError, match=words):
        load_dataset("synthetic", data_root="", synthetic=sizes, **{option: value})


def test_catalogues_of_another_length_are_other_data():
    """Fingerprints differ although no feature shows the number of items."""
    pairs = {"user": np.array([0, 1]), "item": np.array([3, 5]), "num_users": 2}
    of = lambda num_items: Interactions.from_pairs(**pairs, num_items=num_items)
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 20, "items": 60})
    parts = lambda n: {name: of(n) for name in ("train", "valid", "test")}
    short, long = (dataclasses.replace(dataset, features={}, **parts(n)) for n in (60, 90))
    assert short.fingerprint != long.fingerprint
