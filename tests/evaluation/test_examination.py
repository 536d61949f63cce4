"""Warnings of `examine`: feature rows in the wrong order, cold targets, entries out of order."""

import dataclasses

import numpy as np
import pytest

from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.evaluation.examination import ALIGNED, examine


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 200, "items": 300})


def moved(dataset, change):
    features = {name: change(x) for name, x in dataset.features.items()}
    return dataclasses.replace(dataset, features=features)


def test_nothing_gives_pause_in_sound_data(dataset):
    found = examine(dataset)
    assert found.warnings == ()
    for feature in found.facts["features"].values():
        assert feature["deviations"] > ALIGNED
        assert feature["chance_percentile"] == pytest.approx(50, abs=3)
        assert feature["norm"]["median"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: np.roll(x, 1, axis=0),
        lambda x: np.random.default_rng(7).permutation(x),
        lambda x: np.random.default_rng(7).normal(size=x.shape).astype(np.float32),
    ],
    ids=["one row off", "shuffled", "noise"],
)
def test_rows_that_are_not_the_items_are_noticed(dataset, change):
    found = examine(moved(dataset, change))
    assert [w.split(":")[0] for w in found.warnings] == ["text", "image"]
    assert all("in the order of the items?" in warning for warning in found.warnings)


def test_zero_and_repeated_rows_are_counted(dataset):
    def change(x):
        x = x.copy()
        x[:20], x[20:40] = 0, x[50]
        return x

    facts = examine(moved(dataset, change)).facts["features"]["text"]
    assert facts["zero_rows"] == 20 and facts["repeated_rows"] == 19 + 20


def test_counts_cold_targets_and_order_in_time(dataset):
    # User 0 has items 0 (time 5) and 1 (time 9) in train; user 1 has item 0 (time 2). Items 2 and
    # 3 are not in train, so the validation target 2 and the test target 3 are cold. The validation
    # entry of user 0 (time 7) is older than its newest train entry (time 9). No other is.
    make = lambda user, item, time: Interactions.from_pairs(
        user=np.array(user),
        item=np.array(item),
        time=np.array(time),
        num_users=2,
        num_items=4,
    )
    small = dataclasses.replace(
        dataset,
        train=make([0, 0, 1], [0, 1, 0], [5, 9, 2]),
        valid=make([0], [2], [7]),
        test=make([0, 1], [3, 1], [10, 8]),
        features={},
        planted=None,
    )
    found = examine(small)
    assert found.facts["items_without_train"] == 2
    assert found.facts["cold_targets"] == {"valid": 1, "test": 1}
    assert found.facts["users_without"] == {"valid": 1, "test": 0}
    assert found.facts["out_of_order"] == 1
    assert "1 of 2 test targets are cold" in found.warnings[0]
    assert "1 of 2 users have a held-out item older" in found.warnings[1]


def test_without_time_stamps_the_order_is_not_judged(dataset):
    still = {
        part: dataclasses.replace(
            getattr(dataset, part), time=np.zeros_like(getattr(dataset, part).time)
        )
        for part in ("train", "valid", "test")
    }
    found = examine(dataclasses.replace(dataset, **still))
    assert found.facts["out_of_order"] is None
    assert "no time stamps" in found.warnings[0]


def test_ties_in_time_across_the_split_are_noticed(dataset):
    tied = dataclasses.replace(
        dataset, test=dataclasses.replace(dataset.test, time=dataset.valid.time.copy())
    )
    found = examine(tied)
    assert found.facts["tied_in_time"] == dataset.num_users
    assert any("entries of equal time in two parts" in line for line in found.warnings)
    # A predefined split does not depend on the order of the lines.
    given = examine(dataclasses.replace(tied, split="predefined"))
    assert not any("entries of equal time" in line for line in given.warnings)


def test_parts_that_are_empty_are_noticed(dataset):
    nothing = Interactions.from_pairs(
        user=np.empty(0, int), item=np.empty(0, int), num_users=dataset.num_users, num_items=300
    )
    found = examine(dataclasses.replace(dataset, valid=nothing, test=nothing))
    assert sum("part is empty" in line for line in found.warnings) == 2


def test_items_that_never_occur_are_counted_and_named(dataset):
    # The same interactions over a catalogue with 100 more items.
    wider = {
        part: dataclasses.replace(getattr(dataset, part), num_items=400)
        for part in ("train", "valid", "test")
    }
    features = {"text": np.resize(dataset.features["text"], (400, 64))}
    ids = np.arange(400).astype(str)
    found = examine(dataclasses.replace(dataset, **wider, features=features, item_ids=ids))
    assert found.facts["items_absent"] >= 100
    assert any("of 400 items never occur" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("times", "warning"),
    [
        ([1_500_000_000, 1_500_000_100], ""),
        ([1, 2, 3], ""),
        ([1_500_000_000, 1_500_000_100_000], "(1 in seconds, 1 in milliseconds since 1970)"),
        ([0, 1_500_000_000, 1_500_000_100], "1 of 3 time stamps are no dates from 1980 to 2100"),
    ],
)
def test_times_of_several_units_and_missing_times_are_noticed(dataset, times, warning):
    part = lambda times: Interactions.from_pairs(
        user=np.zeros(len(times), np.int64),
        item=np.arange(len(times)),
        time=np.array(times, np.int64),
        num_users=1,
        num_items=9,
    )
    train, rest = part(times), part([])
    changed = dataclasses.replace(
        dataset, train=train, valid=rest, test=rest, features={}, user_ids=np.array(["u"])
    )
    found = [line for line in examine(changed).warnings if "time stamps" in line]
    assert len(found) == bool(warning) and warning in "".join(found)
