"""The derived data sets, and the count of wins and losses."""

import numpy as np
import pytest

from benchmarks import transfer
from fedvlr_jax.data.loading import load_dataset


@pytest.fixture(scope="module")
def dataset():
    sizes = {"users": 60, "items": 80, "seed": 3}
    return load_dataset("synthetic", data_root="", synthetic=sizes)


def test_derived_data_sets_are_what_their_names_say(dataset):
    made = {each.name.split(", ")[1]: each for each in transfer.derived("x", dataset, 0)}
    whole = transfer.pairs_of(dataset)
    assert made["users 0"].num_users + made["users 1"].num_users == 60
    # Ids are the numbers of the original users and items.
    assert not set(made["users 0"].user_ids) & set(made["users 1"].user_ids)
    assert not set(made["items 0"].item_ids) & set(made["items 1"].item_ids)
    assert made["no features"].features == {} and set(made["text"].features) == {"text"}
    assert made["time"].split == "global-time" and made["users 0"].split == "leave-one-out"
    assert len(made["thin"].train) < 0.7 * len(dataset.train)
    counts = lambda pairs: np.sort(np.bincount(pairs.item, minlength=80))[::-1]
    share = lambda found: found[:8].sum() / found.sum()
    assert share(counts(transfer.pairs_of(made["tail"]))) > share(counts(whole)) + 0.02
    text = dataset.features["text"]
    places = made["permuted"].item_ids.astype(int)
    assert not np.array_equal(made["permuted"].features["text"], text[places])
    np.testing.assert_array_equal(made["random"].features["text"], text[places])


def test_random_parts_hold_out_some_of_every_user(dataset):
    pairs = transfer.pairs_of(dataset)
    part = transfer.random_parts(pairs, np.random.default_rng(0))
    for user in range(60):
        length = np.sum(pairs.user == user)
        found = np.bincount(part[pairs.user == user], minlength=3)
        held_out = [max(1, length // 10), max(1, length // 5)]
        assert found.tolist() == [length - sum(held_out), *held_out]


def test_other_seeds_draw_other_data(dataset):
    first, second, again = (next(transfer.derived("x", dataset, seed)) for seed in (0, 1, 0))
    assert first.fingerprint == again.fingerprint != second.fingerprint


def test_a_data_set_is_compared_with_each_baseline(dataset):
    row = transfer.compared(dataset)
    assert {"ease", "ials", "rp3beta_recent", "ease_content"} <= row["baselines"].keys()
    assert "popularity" not in row["baselines"]
    for values in row["baselines"].values():
        assert row["test"] - values["test"] == pytest.approx(values["difference"])


def test_wins_and_losses():
    values = lambda valid, test, difference: dict(
        valid=valid, test=test, difference=difference, error=1.0
    )
    rows = [
        {"baselines": {"a": values(9, 10, 3.0), "b": values(8, 12, 1.0)}},
        {"baselines": {"a": values(9, 20, -1.0), "b": values(5, 10, 9.0)}},
    ]
    found = transfer.against(rows)
    assert found["a"] == {
        "datasets": 2,
        "wins": 1,
        "losses": 1,
        "significant wins": 1,
        "significant losses": 0,
        "mean": pytest.approx((30 - 5) / 2),
        "worst": pytest.approx(-5.0),
    }
    # On validation a is the best twice; on test b is the best of the first data set.
    assert found["the best on validation"] == found["a"]
    assert found["the best on test"]["mean"] == pytest.approx((100 / 12 - 5) / 2)
