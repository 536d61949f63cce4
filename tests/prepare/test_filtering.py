"""Filters of interactions, against hand-computed results."""

import numpy as np
import polars as pl
import pytest

from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare import filtering, splitting
from fedvlr_jax.prepare import rows as module
from fedvlr_jax.prepare.rows import Rows


def rows(*listed):
    """`Rows` of tuples (user, item, rating, time)."""
    user, item, rating, time = (np.array(x) for x in zip(*listed, strict=True))
    return Rows(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        rating=rating.astype(np.float32),
        time=time.astype(np.int64),
        user_ids=pl.Series([f"u{i}" for i in range(user.max() + 1)]),
        item_ids=pl.Series([f"i{i}" for i in range(item.max() + 1)]),
    )


def listed(found):
    arrays = (found.user, found.item, found.rating, found.time)
    return [tuple(x.item() for x in row) for row in zip(*arrays, strict=True)]


# (0, 1) occurs three times. (1, 1) occurs twice, with equal times.
REPEATS = ((0, 1, 4, 30), (0, 1, 1, 10), (1, 1, 2, 5), (0, 0, 3, 1), (1, 1, 5, 5), (0, 1, 2, 20))


@pytest.mark.parametrize(
    ("duplicates", "expected"),
    [
        ("first", [(0, 1, 1, 10), (1, 1, 2, 5), (0, 0, 3, 1)]),
        ("last", [(0, 1, 4, 30), (0, 0, 3, 1), (1, 1, 5, 5)]),
        # (4 + 1 + 2) / 3 is 7/3 and (2 + 5) / 2 is 3.5.
        ("merge", [(0, 1, 7 / 3, 10), (1, 1, 3.5, 5), (0, 0, 3, 1)]),
    ],
)
def test_repeats(duplicates, expected):
    assert listed(filtering.without_repeats(rows(*REPEATS), duplicates)) == expected
    given = rows(*REPEATS)
    assert filtering.without_repeats(given, "keep") is given


def test_repeats_are_found_range_by_range(monkeypatch):
    draw = np.random.default_rng(0)
    many = rows(*zip(*draw.integers(0, 20, (4, 300)), strict=True))
    pairs = [tuple(pair) for pair in zip(many.user.tolist(), many.item.tolist(), strict=True)]
    expected = [place for place, pair in enumerate(pairs) if pairs.count(pair) > 1]
    monkeypatch.setattr(filtering, "_RANGE_ROWS", 70)
    assert filtering.repeated(many).tolist() == expected


def test_core_removes_until_nothing_changes():
    # Item 2 has one user. Without it user 1 has one item, and without user 1 item 1 has one user.
    found = filtering.core(
        rows(
            *((0, 0, 1, 1), (0, 3, 1, 1), (2, 0, 1, 1), (2, 3, 1, 1)),
            (0, 1, 1, 1),
            (1, 1, 1, 1),
            (1, 2, 1, 1),
        ),
        2,
        2,
    )
    assert listed(found) == [(0, 0, 1, 1), (0, 3, 1, 1), (2, 0, 1, 1), (2, 3, 1, 1)]


def test_some_users_have_enough():
    many = rows(*((u, i, 1, i) for u in range(6) for i in range(u + 1)))
    found = filtering.of_some_users(many, 2, 4, seed=0)
    users = set(found.user.tolist())
    assert len(users) == 2 and users <= {3, 4, 5}
    assert filtering.of_some_users(many, 3, 4, seed=0) is many


def test_global_time_drops_users_without_train():
    many = rows(*((0, i, 1, i) for i in range(10)), (1, 0, 1, 11))
    kept, part = splitting.split_rows(many, "global-time")
    assert set(kept.user.tolist()) == {0} and len(part) == 10
    late = rows(*((user, i, 1, 10 * user + i) for user in range(9) for i in range(5)))
    with pytest.raises(InputError, match=r"the 1 users .* the test part is empty"):
        splitting.split_rows(late, "global-time")


def test_the_recipe_repeats_rows_at_a_quantile():
    # The 0.8 quantile of eleven sorted times is the ninth, and the 0.9 quantile is the tenth.
    many = rows(*((i % 2, i, 1, 10 * i) for i in range(11)))
    found = splitting.mmrec_recipe(many)
    pairs = listed(found)
    assert len(pairs) == 13 and pairs.count((0, 8, 1, 80)) == 2 and pairs.count((1, 9, 1, 90)) == 2
    assert [row[0] for row in pairs] == sorted(row[0] for row in pairs)


def test_rows_move_together_slice_by_slice(monkeypatch):
    monkeypatch.setattr(module, "_SLICE_ROWS", 7)
    given = [(i % 5, i % 11, i % 3, i) for i in range(50)]
    many = rows(*given)
    expected_counts = np.bincount([row[0] for row in given])
    assert many.user_counts.tolist() == expected_counts.tolist()
    keep = np.random.default_rng(0).random(50) < 0.5
    kept = many.only(keep)
    assert listed(kept) == [row for row, stays in zip(given, keep, strict=True) if stays]


@pytest.mark.parametrize("removed", [range(0, 50, 3), range(0, 50, 25), ()])
def test_counts_after_rows_are_removed(removed, monkeypatch):
    monkeypatch.setattr(module, "_SLICE_ROWS", 7)
    many = rows(*((i % 5, i % 11, 3, i) for i in range(50)))
    assert (sum(many.user_counts), sum(many.item_counts)) == (50, 50)
    keep = np.ones(50, bool)
    keep[list(removed)] = False
    kept = many.only(keep)
    assert kept.user_counts.tolist() == np.bincount(kept.user, minlength=5).tolist()
    assert kept.item_counts.tolist() == np.bincount(kept.item, minlength=11).tolist()


def test_gather_slice_by_slice(monkeypatch):
    monkeypatch.setattr(module, "_SLICE_ROWS", 7)
    codes = np.arange(20, dtype=np.int32) % 3
    found = module.gather(np.array([True, False, True]), codes)
    assert found.dtype == bool and found.tolist() == (codes != 1).tolist()


@pytest.mark.parametrize("expected", [0, 4, 100])
def test_an_array_grows_to_the_widest_type(expected):
    array = module.GrowingArray(expected)
    for block in (np.ones(3, np.float32), np.full(5, 0.1), np.zeros(40, np.float32)):
        array.append(block)
    assert array.array.dtype == np.float64
    assert array.array.tolist() == [1.0] * 3 + [0.1] * 5 + [0.0] * 40
    exact = module.GrowingArray(expected)
    exact.append(np.array([2**64 - 1], np.uint64))
    assert exact.array.tolist() == [2**64 - 1]
