"""`Dataset.from_arrays` and `Dataset.from_frame`."""

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError

# In order of time, "ann" has the items x, z, y, w, and 7 has the items y, w, x.
USER = np.array(["ann", "bob", "ann", "bob", "ann", "bob", "ann"])
ITEM = np.array(["x", "y", "y", "w", "z", "x", "w"])
TIME = np.array([1, 1, 5, 2, 3, 9, 8])
MIXED = np.array([1, 1, 1, "1", "1", "1", 2], object)


def named(dataset, part):
    rows = getattr(dataset, part)
    return {
        (str(dataset.user_ids[u]), str(dataset.item_ids[i]))
        for u, i in zip(rows.users, rows.item, strict=True)
    }


def test_leave_one_out():
    dataset = Dataset.from_arrays(user=USER, item=ITEM, time=TIME)
    assert dataset.item_ids.tolist() == ["x", "y", "w", "z"]
    assert named(dataset, "train") == {("ann", "x"), ("ann", "z"), ("bob", "y")}
    assert named(dataset, "valid") == {("ann", "y"), ("bob", "w")}
    assert named(dataset, "test") == {("ann", "w"), ("bob", "x")}


def test_without_times_the_order_decides():
    dataset = Dataset.from_arrays(user=USER, item=ITEM)
    assert named(dataset, "test") == {("ann", "w"), ("bob", "x")}
    assert named(dataset, "valid") == {("ann", "z"), ("bob", "w")}
    assert sorted(dataset.test.time.tolist()) == [5, 6]


def test_dates_and_nanoseconds_are_exact():
    base = 1_500_000_000_000_000_000
    dates = np.array([base + t for t in TIME], "datetime64[ns]")
    dataset = Dataset.from_arrays(user=USER, item=ITEM, time=dates)
    assert sorted(dataset.test.time.tolist()) == [base + 8, base + 9]


def test_features_follow_the_catalogue():
    image = np.arange(10, dtype=float).reshape(5, 2)
    ids = ["w", "x", "y", "z", "never"]
    dataset = Dataset.from_arrays(
        user=USER, item=ITEM, time=TIME, features={"image": image}, item_ids=ids
    )
    assert dataset.item_ids.tolist() == ids and dataset.num_items == 5
    assert dataset.features["image"].dtype == np.float32
    assert named(dataset, "test") == {("ann", "w"), ("bob", "x")}


@pytest.mark.parametrize("name", ["KU", "ML"])
def test_a_frame_gives_what_the_files_give(name, data_root):
    loaded = load_dataset(name, data_root=data_root)
    frame = pd.read_csv(data_root / name / "inter.csv")
    columns = dict(user="userID", item="itemID", part="split_label", features=loaded.features)
    assert Dataset.from_frame(frame, **columns).fingerprint == loaded.fingerprint
    assert Dataset.from_frame(pl.from_pandas(frame), **columns).fingerprint == loaded.fingerprint


def test_repeats_and_leaks_are_said():
    part = np.array([0, 0, 1, 0, 0, 2, 2])
    # The pair (ann, x) occurs twice in train and once as a target.
    more = [["ann", "ann"], ["x", "x"], [0, 3], [0, 2]]
    user, item, time, part = (
        np.append(a, b) for a, b in zip((USER, ITEM, TIME, part), more, strict=True)
    )
    dataset = Dataset.from_arrays(user=user, item=item, time=time, part=part)
    assert dataset.notes == (
        "merged 1 duplicate interactions (user, item); first at place 7",
        "left 1 targets out that the same user has in an earlier part",
    )
    assert ("ann", "x") in named(dataset, "train") and ("ann", "x") not in named(dataset, "test")
    assert len(dataset.test) == 2
    assert dataset.train.time[0] == 0 and dataset.split == "predefined"


def test_global_time_drops_users_without_train():
    dataset = Dataset.from_arrays(
        user=[0] * 10 + [1], item=[*range(10), 3], time=range(11), split="global-time"
    )
    assert dataset.user_ids.tolist() == ["0"]
    assert dataset.notes == ("dropped 1 users without train interactions",)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"item": ITEM[:3]}, "item: has 3 entries, expected 7"),
        ({"user": [], "item": []}, "user: empty"),
        ({"user": USER.reshape(1, 7)}, r"user: has the shape \(1, 7\)"),
        ({"user": [*USER[:6], None]}, r"user\[6\]: found a missing value"),
        ({"time": [1, 2, 3.5, 4, 5, 6, 7]}, r"time\[2\]: found 3.5, expected a whole number"),
        ({"time": [1, 2, np.nan, 4, 5, 6, 7]}, r"time\[2\]"),
        ({"time": np.full(7, 2**53, float)}, r"time\[0\]: .* that float64 does not round"),
        ({"time": np.full(7, 2**24, np.float32)}, r"time\[0\]: .* that float32 does not round"),
        ({"time": ["a"] * 7}, "time: has the type .* pandas.to_datetime converts dates"),
        (
            {"user": MIXED},
            "user: found the ids 1 and '1', which have the same",
        ),
        ({"user": [1.0, 1, 1, 2, 2, 2, 2.5]}, r"user\[6\]: found 2.5, expected a text or a whole"),
        ({"item": MIXED, "time": None}, "item: found the ids 1 and '1', which have the same text"),
        ({"features": np.ones((4, 2))}, "features: found ndarray, expected a mapping"),
        ({"features": {"text": [["Red"]] * 4}}, r"features\['text'\]: not an array .*hashed_rows"),
        ({"time": np.ones((7, 1), int)}, r"time: has the shape \(7, 1\), expected one dimension"),
        ({"time": np.full(7, 2**63, np.uint64)}, r"time\[0\]: found \d+, expected a number below"),
        ({"part": np.zeros((7, 1), int)}, r"part: has the shape \(7, 1\), expected one dimension"),
        ({"features": {"text": np.full((4, 2), 1e300)}}, r"features\['text'\]\[0\]: found inf"),
        ({"features": {"text": np.full((4, 2), -2e15)}}, r"found -2e\+15, expected .* 1e\+15"),
        ({"part": [3] * 7}, r"part\[0\]: found 3"),
        ({"part": [False] * 7}, r"part\[0\]: found False, expected 0"),
        ({"split": "random"}, "split: found 'random'"),
        ({"split": "predefined"}, "part: must be given"),
        ({"part": [0] * 7, "split": "leave-one-out"}, "part: must be given"),
        ({"part": [1] * 7}, "user 'ann': has no train interaction"),
        ({"item_ids": ["x", "y"]}, r"item\[3\]: found 'w', expected one of the 2 items"),
        ({"item_ids": ["x", "x"]}, r"item_ids\[1\]: 'x' occurs again"),
        ({"features": {"text": np.ones((4, 2))}}, "item_ids: needed with features"),
        (
            {"features": {"text": np.ones((5, 2))}, "item_ids": list("xyzw")},
            "text: has 5 rows, expected 4",
        ),
        ({"features": {"text": np.full((4, 2), np.nan)}}, r"features\['text'\]\[0\]: found nan"),
        ({"features": {"id": np.ones((4, 2))}}, "found the modality 'id', expected a name"),
        ({"features": {"a,b": np.ones((4, 2))}}, "found the modality 'a,b', expected a name"),
        ({"features": {"": np.ones((4, 2))}}, "found the modality '', expected a name"),
        ({"features": {" text": np.ones((4, 2))}}, "found the modality ' text', expected a name"),
        ({"features": {1: np.ones((4, 2))}}, r"features\[1\]: found the modality 1"),
        ({"features": {"text": np.ones((4, 2), complex)}}, "not an array of numbers"),
        ({"user": [*USER[:4], "c", "c", "c"]}, "leave-one-out needs at least 3"),
    ],
)
def test_what_cannot_be_used(changes, found):
    with pytest.raises(InputError, match=found):
        Dataset.from_arrays(**{"user": USER, "item": ITEM, "time": TIME, **changes})


def test_a_column_that_is_not_there():
    frame = pd.DataFrame({"user_id": USER, "item_id": ITEM, "when": TIME})
    with pytest.raises(InputError, match="no column 'timestamp'; it has user_id, item_id, when"):
        Dataset.from_frame(frame)
    assert Dataset.from_frame(frame, time="when").num_users == 2
    assert Dataset.from_frame(frame[["user_id", "item_id"]], time=None).num_users == 2
    with pytest.raises(InputError, match=r"user: the frame has no column 'uid'; .* give user=NAME"):
        Dataset.from_frame(frame, user="uid")
    with pytest.raises(InputError, match="frame: found dict, expected a data frame"):
        Dataset.from_frame({"user_id": USER})


def test_a_column_that_is_not_used_is_named():
    frame = pd.DataFrame({"user_id": USER, "item_id": ITEM, "timestamp": TIME})
    assert Dataset.from_frame(frame).notes == ()
    notes = Dataset.from_frame(frame.assign(rating=5, mood="x")).notes
    assert notes == ("columns not used: rating, mood; all interactions have equal weight",)


def test_types_of_pandas():
    """Whole floats, nullable numbers, categories and zones give the same data set."""
    frame = pd.DataFrame({"user_id": [4, 9, 4, 9, 4, 9, 4], "item_id": ITEM, "timestamp": TIME})
    expected = Dataset.from_frame(frame)
    assert expected.user_ids.tolist() == ["4", "9"]
    zoned = pd.to_datetime(frame.timestamp, unit="s", utc=True).dt.tz_convert("Asia/Tokyo")
    for changes in (
        {"user_id": frame.user_id.astype(float)},
        {"user_id": frame.user_id.astype("Int64"), "timestamp": frame.timestamp.astype("Int64")},
        {"item_id": frame.item_id.astype("category")},
        {"timestamp": zoned},
    ):
        found = Dataset.from_frame(frame.assign(**changes))
        assert found.fingerprint == expected.fingerprint
        assert found.user_ids.tolist() == ["4", "9"]


@pytest.mark.slow
def test_the_example_of_the_page(capsys):
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    example = next(block for block in page.split("```python\n") if "from_frame(\n" in block)
    exec(example.partition("```")[0], {})
    notes, recommended = capsys.readouterr().out.splitlines()
    assert "columns not used: rating" in notes
    assert recommended.startswith("0 [") and recommended.count("Film") == 2
