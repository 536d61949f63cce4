"""Metrics against hand-computed values, against the mean over all tie orders, and over slices."""

import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.pairs import Pairs
from fedvlr_jax.evaluation import metrics as evaluation_metrics
from fedvlr_jax.evaluation.metrics import METRICS, averages, summarise, user_metrics
from fedvlr_jax.evaluation.ranking import count_ahead
from tests.oracle.reference import expected_metrics

count_ahead = jax.jit(count_ahead)


def interactions(rows, num_items):
    user = [u for u, row in enumerate(rows) for _ in row]
    item = [i for row in rows for i in row]
    return Interactions.from_pairs(user=user, item=item, num_users=len(rows), num_items=num_items)


def dataset(train, test, num_items):
    return Dataset(
        name="toy",
        train=interactions(train, num_items),
        valid=interactions([[] for _ in train], num_items),
        test=interactions(test, num_items),
        features={},
        user_ids=np.arange(len(train)).astype(str),
        item_ids=np.arange(num_items).astype(str),
        split="predefined",
    )


def one_user(ahead, tied, ks, select=None):
    part = interactions([range(len(ahead))], len(ahead))
    metrics = user_metrics(np.array(ahead), np.array(tied), part, select, ks)
    return {name: values[0] for name, values in metrics.items()}


def test_one_target_without_ties():
    # Two items are ahead: rank 3.
    found = one_user([2], [0], (2, 3))
    assert all(found[f"{name}@2"] == 0 for name in METRICS)
    assert found["hr@3"] == found["recall@3"] == 1
    assert found["precision@3"] == pytest.approx(1 / 3)
    assert found["ndcg@3"] == pytest.approx(1 / 2)  # 1 / log2(1 + 3)
    assert found["mrr@3"] == found["map@3"] == pytest.approx(1 / 3)


def test_one_target_in_a_tie_group_across_the_cut():
    # One item ahead, two tied: ranks 2, 3 and 4 with probability 1/3 each; two are within K = 3.
    found = one_user([1], [2], (3,))
    assert found["hr@3"] == pytest.approx(2 / 3)
    assert found["precision@3"] == pytest.approx(2 / 3 / 3)
    assert found["ndcg@3"] == pytest.approx((1 / math.log2(3) + 1 / 2) / 3)
    assert found["mrr@3"] == pytest.approx((1 / 2 + 1 / 3) / 3)


def test_two_targets_without_ties():
    # Ranks 1 and 3.
    found = one_user([0, 2], [0, 0], (2, 10))
    assert (found["hr@2"], found["recall@2"], found["precision@2"]) == (1, 0.5, 0.5)
    assert (found["hr@10"], found["recall@10"]) == (1, 1)
    assert found["precision@10"] == pytest.approx(0.2)
    assert found["ndcg@2"] == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert found["ndcg@10"] == pytest.approx((1 + 1 / 2) / (1 + 1 / math.log2(3)))
    assert found["mrr@2"] == found["mrr@10"] == 1
    assert found["map@2"] == pytest.approx(1 / 2)
    assert found["map@10"] == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_two_targets_tied_with_one_other_item():
    # Two targets and one other item tie at ranks 1, 2 and 3. A target has rank 1 with probability
    # 2/3. At least one target is always within K = 2.
    found = one_user([0, 0], [2, 2], (1, 2))
    assert found["hr@1"] == pytest.approx(2 / 3)
    assert found["recall@1"] == pytest.approx(1 / 3)
    assert found["hr@2"] == pytest.approx(1)
    assert found["recall@2"] == pytest.approx(2 / 3)
    # The first target has rank 1 (probability 2/3) or 2 (1/3).
    assert found["mrr@2"] == pytest.approx(2 / 3 + 1 / 3 / 2)
    # Targets at (1, 2), (1, 3) or (2, 3): AP@2 is (1 + 1) / 2, 1 / 2 and (1/2) / 2.
    assert found["map@2"] == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)


NUM_ITEMS, WIDTH = 6, 3


@st.composite
def tied_cases(draw):
    scores = draw(st.lists(st.integers(0, 3), min_size=NUM_ITEMS, max_size=NUM_ITEMS))
    items = draw(st.permutations(range(NUM_ITEMS)))
    num_targets, num_masked = draw(st.integers(1, WIDTH)), draw(st.integers(0, 2))
    targets, masked = items[:num_targets], items[num_targets : num_targets + num_masked]
    return scores, sorted(targets), masked


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=tied_cases())
def test_ties_earn_the_mean_over_all_orders_that_they_allow(case):
    scores, targets, masked_items = case
    ks = (1, 2, 3, 50)
    items = np.array(targets + [NUM_ITEMS] * (WIDTH - len(targets)), np.int32)
    masked = np.isin(np.arange(NUM_ITEMS), masked_items)
    pairs = Pairs(np.zeros_like(items), items)
    ranks = count_ahead(np.array([scores], np.float32), pairs, masked[None])
    ahead, tied = (np.asarray(counts)[: len(targets)] for counts in ranks[:2])
    metrics = user_metrics(ahead, tied, interactions([targets], NUM_ITEMS), ks=ks)
    candidates = [i for i in range(NUM_ITEMS) if not masked[i]]
    for k in ks:
        for name, expected in expected_metrics(scores, candidates, targets, k).items():
            assert metrics[f"{name}@{k}"][0] == pytest.approx(expected, abs=1e-12), name


@pytest.mark.parametrize("num_targets", [1, 4])
def test_a_constant_score_earns_chance(num_targets):
    # 200 candidates, all tied: all ranks of a target are equally probable.
    found = one_user([0] * num_targets, [199] * num_targets, (10, 50))
    assert found["recall@50"] == pytest.approx(50 / 200)
    assert found["precision@10"] == pytest.approx(num_targets / 200)
    all_outside = math.comb(200 - num_targets, 50) / math.comb(200, 50)
    assert found["hr@50"] == pytest.approx(1 - all_outside)


def test_only_selected_targets_count_and_the_others_remain_in_the_way():
    # Targets at ranks 1 and 3, of which only the second is selected. Its ideal rank is 1.
    found = one_user([0, 2], [0, 0], (10,), np.array([False, True]))
    assert found["ndcg@10"] == pytest.approx(1 / 2)
    assert found["recall@10"] == 1
    assert all(math.isnan(v) for v in one_user([0], [0], (10,), np.array([False])).values())


def test_a_user_among_many_has_the_metrics_that_it_has_alone():
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 6, 300)
    part = interactions([range(number) for number in numbers], 6)
    # Tie groups with five different starts, some of them across both cut-offs.
    ahead = 4 * rng.integers(0, 5, len(part))
    tied = 3 * (ahead // 4)
    for row in np.split(tied, part.indptr[1:-1]):
        row += len(row)
    select = rng.random(len(part)) < 0.8
    together = user_metrics(ahead, tied, part, select, (5, 20))
    for user, (begin, end) in enumerate(itertools.pairwise(part.indptr)):
        own = slice(begin, end)
        alone = one_user(ahead[own], tied[own], (5, 20), select[own])
        for name, value in alone.items():
            np.testing.assert_array_equal(together[name][user], value)


def test_the_metrics_of_thousands_of_users_take_no_step_a_user(monkeypatch):
    """Two users and two thousand users, each with several targets, take equally many calls."""
    calls = []
    sums_over_ranks = evaluation_metrics._sums_over_ranks
    monkeypatch.setattr(
        evaluation_metrics, "_sums_over_ranks", lambda *a: calls.append(1) or sums_over_ranks(*a)
    )
    counted = []
    for users in (2, 2000):
        part = interactions([[0, 1, 2]] * users, 3)
        calls.clear()
        user_metrics(np.tile([0, 3, 3], users), np.tile([0, 8, 8], users), part, ks=(10,))
        counted.append(len(calls))
    # One call for the groups of one item, one for the groups of nine items.
    assert counted == [2, 2]


@pytest.fixture
def sliced():
    """Four users over 100 items: train lengths 10, 11, 1, 1; item 99 is never in train.

    The test targets have rank 1 (warm), rank 3 (cold), and ranks 1 (warm) and 2 (cold). The last
    user has no target.
    """
    train = [list(range(10)), list(range(10, 21)), [21], [22]]
    data = dataset(train, [[10], [99], [0, 99], []], 100)
    ahead = np.array([0, 2, 0, 1])
    return summarise(ahead, np.zeros_like(ahead), data, "test", (1, 50))


def test_means_are_in_percent_over_the_users_with_a_target(sliced):
    assert sliced["users"] == 3
    assert sliced["hr@1"] == pytest.approx(100 * 2 / 3)
    # Both targets of the third user have their ideal ranks.
    assert sliced["ndcg@50"] == pytest.approx(100 * (1 + 1 / 2 + 1) / 3)


def test_warm_and_cold_targets(sliced):
    # Warm: users 0 and 2, both at rank 1. Cold: rank 3 of user 1 and rank 2 of user 2.
    assert (sliced["warm"]["users"], sliced["warm"]["ndcg@50"]) == (2, 100)
    assert sliced["cold"]["users"] == 2
    assert sliced["cold"]["ndcg@50"] == pytest.approx(100 * (1 / 2 + 1 / math.log2(3)) / 2)


def test_activity_is_the_length_of_the_train_history(sliced):
    activity = sliced["activity"]
    assert list(activity) == ["0-10", "11-20", "21-50", "51-100", "101-200", "201-500", "501+"]
    assert (activity["0-10"]["users"], activity["0-10"]["ndcg@50"]) == (2, 100)
    assert (activity["11-20"]["users"], activity["11-20"]["ndcg@50"]) == (1, pytest.approx(50))
    assert activity["501+"] == {"users": 0}


def test_the_worst_decile_is_rounded_up_to_whole_users(sliced):
    # A tenth of three users, rounded up, is one user: the one with NDCG 1/2.
    assert sliced["worst_decile"]["users"] == 1
    assert sliced["worst_decile"]["ndcg@50"] == pytest.approx(50)


def test_a_slice_without_users():
    data = dataset([[0], [1]], [[1], [0]], 3)
    summary = summarise(np.zeros(2, int), np.zeros(2, int), data, "test", (50,))
    assert summary["cold"] == {"users": 0}
    assert summary["warm"]["hr@50"] == 100


def test_the_worst_decile_of_many_users_and_the_interval_of_the_mean():
    # Each user has one target, at ranks 1 to 100. The worst ten have ranks 91 to 100.
    data = dataset([[0]] * 100, [[1]] * 100, 101)
    ahead = np.arange(100)
    summary = summarise(ahead, np.zeros_like(ahead), data, "test", (50,))
    assert summary["hr@50"] == 50
    assert summary["worst_decile"]["users"] == 10
    assert summary["worst_decile"]["hr@50"] == 0
    low, high = summary["ci95"]["hr@50"]
    # Standard error 100 * sqrt(0.25 / 100) = 5 points; 1.96 of them to each side.
    assert low == pytest.approx(50 - 9.8, abs=2) and high == pytest.approx(50 + 9.8, abs=2)


def test_nothing_is_rounded():
    data = dataset([[0]] * 3, [[1]] * 3, 10)
    ahead = np.array([0, 1, 2])
    summary = summarise(ahead, np.zeros_like(ahead), data, "test", (1, 50))
    assert summary["hr@1"] == 100 * (1.0 / 3)


def test_the_cut_offs_are_10_20_and_50():
    part = interactions([[0], [1]], 3)
    expected = {f"{name}@{k}" for name in METRICS for k in (10, 20, 50)}
    assert set(user_metrics(np.zeros(2, int), np.zeros(2, int), part)) == expected
    data = dataset([[0], [1]], [[1], [0]], 3)
    summary = summarise(np.zeros(2, int), np.zeros(2, int), data, "test")
    assert {name for name in summary if "@" in name} == expected


def test_the_interval_of_equal_metrics_is_that_metric_in_percent():
    data = dataset([[0]] * 4, [[1]] * 4, 3)
    summary = summarise(np.zeros(4, int), np.zeros(4, int), data, "test", (50,))
    assert summary["ci95"] == {"hr@50": [100, 100], "ndcg@50": [100, 100]}
    assert summary["cold"]["ci95"] == summary["ci95"] and summary["warm"] == {"users": 0}


def test_averages_are_the_means_of_the_summary():
    data = dataset([[0], [1], [2]], [[1], [3], [0, 3]], 4)
    ahead, tied = np.array([0, 2, 0, 1]), np.zeros(4, int)
    found = averages(ahead, tied, data, "test", (1, 50))
    summary = summarise(ahead, tied, data, "test", (1, 50))
    assert found["users"] == 3 and found["hr@1"] == pytest.approx(100 * 2 / 3)
    assert (found["warm"]["users"], found["cold"]["users"]) == (2, 2)
    for name, value in found.items():
        if isinstance(value, dict):
            assert value == {key: summary[name][key] for key in value}
        else:
            assert value == summary[name]


def test_a_tenth_of_eleven_users_is_two():
    data = dataset([[0]] * 11, [[1]] * 11, 12)
    ahead = np.arange(11)
    worst = summarise(ahead, np.zeros_like(ahead), data, "test", (50,))["worst_decile"]
    assert worst["users"] == 2
    # Ranks 10 and 11.
    expected = 100 * (1 / math.log2(11) + 1 / math.log2(12)) / 2
    assert worst["ndcg@50"] == pytest.approx(expected)
