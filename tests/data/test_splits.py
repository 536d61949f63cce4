"""Hand-computed splits, and properties that hold for all interactions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedvlr_jax.data import splits
from fedvlr_jax.errors import InputError


def test_leave_one_out_follows_time_and_breaks_ties_in_file_order():
    user = np.array([1, 0, 0, 0, 1, 1, 0])
    time = np.array([5, 9, 3, 3, 5, 5, 1])
    # User 0 in time order: rows 6, 2, 3, 1. User 1, all tied: rows 0, 4, 5.
    assert splits.leave_one_out(user, time).tolist() == [0, 2, 0, 1, 1, 2, 0]


def test_leave_one_out_names_the_user_who_is_too_short():
    with pytest.raises(InputError, match=r"user 1 has 2 distinct item\(s\).*at least 3"):
        splits.leave_one_out(np.array([0, 0, 0, 1, 1]), np.arange(5))


def test_parts_from_the_end():
    parts = splits.parts_from_the_end(np.array([3, 5]))
    assert parts.tolist() == [0, 1, 2, 0, 0, 0, 1, 2]


def test_global_time_cuts_at_80_and_90_percent():
    time = np.array([90, 10, 20, 30, 40, 50, 60, 70, 80, 0])
    # Sorted times: 0, 10, ..., 90; t1 = 80 (index 8), t2 = 90 (index 9).
    assert splits.global_time(time).tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 1, 0]


def test_global_time_needs_different_times():
    with pytest.raises(InputError, match=r"train part .* would be empty"):
        splits.global_time(np.full(10, 7))


def test_repeats_keep_the_earliest_time_then_the_first_row():
    user = np.array([0, 0, 0, 1, 1])
    item = np.array([4, 4, 4, 4, 4])
    time = np.array([3, 1, 1, 2, 2])
    keep, first = splits.find_repeats(user, item, time)
    assert keep.tolist() == [False, True, False, True, False]
    assert first == 1


def test_a_pair_in_two_parts_is_no_repeat_but_leaks():
    user, item, time = np.zeros(4, int), np.array([7, 7, 8, 8]), np.arange(4)
    part = np.array([0, 2, 1, 2], np.int8)
    keep, first = splits.find_repeats(user, item, time, part)
    assert keep.all() and first is None
    assert splits.find_leaked(user, item, part).tolist() == [False, True, False, True]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 5)), min_size=1))
def test_repeats_keep_every_pair_exactly_once(rows):
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    keep, first = splits.find_repeats(user, item, time)
    kept = list(zip(user[keep], item[keep], strict=True))
    assert len(kept) == len(set(kept))
    assert set(kept) == set(zip(user, item, strict=True))
    assert (first is None) == keep.all()
