"""The step to the next item: against literal clients, and when validation takes it."""

import dataclasses
import re
import tracemalloc

import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.runs import runs_in_order
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated import ease_settings, transitions
from fedvlr_jax.federated.ease_settings import Wanted, ease_initialization, tried_transitions
from fedvlr_jax.federated.exchanges import exchanges_of
from fedvlr_jax.federated.ials import score_deviation
from fedvlr_jax.federated.model import make_model
from fedvlr_jax.federated.transitions import next_vectors, uploaded_numbers
from fedvlr_jax.simulation import make_simulation
from tests.federated.random_data import random_dataset

USERS, ITEMS, WIDTH = 25, 18, 5
GIVEN = Wanted(content=0.0, normalization=0.0, recency=0.0, ials=False, ridge=2.0, exchanges=50)


@pytest.fixture(scope="module")
def dataset():
    """Random histories, of which many items have equal times; nobody has the last item."""
    found = random_dataset(1, USERS, ITEMS, unseen=1, share=0.4, parts=6)
    # The first client keeps nothing, the second has one item.
    train, rng = found.train, np.random.default_rng(2)
    kept = train.users > 1
    kept[train.indptr[1]] = True
    train = Interactions.from_pairs(
        user=train.users[kept],
        item=train.item[kept],
        time=rng.integers(0, 5, np.sum(kept)),
        num_users=USERS,
        num_items=ITEMS,
    )
    return dataclasses.replace(found, train=train)


@pytest.fixture(scope="module")
def items():
    rows = np.random.default_rng(3).standard_normal((ITEMS, WIDTH))
    rows[-1] = 0.0
    # The last column depends on the first.
    rows[:, -1] = 2 * rows[:, 0]
    return rows


def state_before(history, time, rows, now):
    """The decayed sum of the items before `now`, their age counted back from that moment."""
    before = [(t, i) for t, i in zip(time, history, strict=True) if t < now]
    state = np.zeros(rows.shape[1])
    for t, i in before:
        newer = sum(other > t for other, _ in before)
        equal = sum(other == t for other, _ in before) - 1
        state += 0.9 ** (newer + equal / 2) * rows[i]
    return state


def literal_scores(train, items):
    """float64 [N, I], of a deviation of 1."""
    # Rows whose covariance over all interactions is the identity.
    interactions = items[train.item]
    variances, axes = np.linalg.eigh(interactions.T @ interactions)
    rank = np.linalg.matrix_rank(items)
    rows = items @ axes[:, -rank:] / np.sqrt(variances[-rank:])
    before, following = np.zeros((2, rank, rank))
    for u in range(train.num_users):
        own = slice(train.indptr[u], train.indptr[u + 1])
        for item, time in zip(train.item[own], train.time[own], strict=True):
            state = state_before(train.item[own], train.time[own], rows, time)
            before += np.outer(state, state)
            following += np.outer(state, rows[item])
    ridge = 10 * np.mean(np.diag(before))
    step = np.linalg.solve(before + ridge * np.eye(rank), following)
    states = np.zeros((train.num_users, rank))
    for u in range(train.num_users):
        own = slice(train.indptr[u], train.indptr[u + 1])
        states[u] = state_before(train.item[own], train.time[own], rows, np.inf)
    scores = states @ step @ rows.T
    return scores / np.sqrt(np.mean(np.var(scores, axis=1)))


def test_the_scores_are_those_of_literal_clients(dataset, items):
    vectors = next_vectors(dataset.train, items)
    found = vectors @ items.T
    np.testing.assert_allclose(found, literal_scores(dataset.train, items), atol=1e-10)
    assert not vectors[0].any() and vectors[1].any()
    assert score_deviation(vectors, items) == pytest.approx(1.0)


def test_clients_in_groups_have_the_same_vectors(dataset, items, monkeypatch):
    expected = next_vectors(dataset.train, items)
    monkeypatch.setattr(transitions, "CLIENTS_AT_ONCE", 1)
    np.testing.assert_allclose(next_vectors(dataset.train, items), expected, atol=1e-12)


def test_columns_beyond_the_rank_cost_nothing(dataset, items):
    # The products of all columns with each other would take 320 GB.
    wide = np.pad(items, ((0, 0), (0, 200_000 - WIDTH)))
    found = next_vectors(dataset.train, wide)
    np.testing.assert_allclose(found[:, :WIDTH], next_vectors(dataset.train, items), atol=1e-12)
    assert not found[:, WIDTH:].any()


def test_two_arrays_with_a_row_for_each_client_exist_at_once():
    train, width = random_dataset(1, 20_000, 40, unseen=0, share=0.1, parts=6).train, 40
    items = np.random.default_rng(3).standard_normal((40, width))
    train = dataclasses.replace(train, time=np.arange(len(train)))
    array = 8 * train.num_users * width
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    next_vectors(train, items)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 2.8 * array


def test_without_successive_items_there_is_no_step(dataset, items):
    # Every client has one time of its own.
    train = dataclasses.replace(dataset.train, time=dataset.train.users.copy())
    assert not next_vectors(train, items).any()


def test_the_runs_of_all_users_from_the_oldest(dataset):
    train, seen = dataset.train, {}
    for run in runs_in_order(train):
        assert len(np.unique(run.users)) == len(run.users)
        for row, user in enumerate(run.users):
            own = run.items[[row]].toarray()[0]
            assert own.sum() == run.length[row, 0]
            seen.setdefault(user, []).append(set(np.flatnonzero(own)))
    for user in range(USERS):
        own = slice(train.indptr[user], train.indptr[user + 1])
        by_time = {}
        for item, time in zip(train.item[own], train.time[own], strict=True):
            by_time.setdefault(time, set()).add(item)
        assert seen.get(user, []) == [by_time[time] for time in sorted(by_time)]


def test_a_table_of_zeros_leads_nowhere(dataset):
    assert not next_vectors(dataset.train, np.zeros((ITEMS, WIDTH))).any()


def test_what_a_client_sends():
    # The upper triangle of S (6), and T (9).
    assert uploaded_numbers(3) == 15


def circle(steps):
    """Each user walks over the items in one direction, by the steps."""
    place = np.cumsum(np.random.default_rng(0).choice(steps, (200, 10)), axis=1)
    item = (np.arange(200)[:, None] * 7 + place) % 60
    part = lambda chosen: Interactions.from_pairs(
        user=np.repeat(np.arange(200), item[:, chosen].shape[1]),
        item=item[:, chosen].ravel(),
        time=np.tile(np.arange(10)[chosen], 200),
        num_users=200,
        num_items=60,
    )
    return Dataset(
        name="circle",
        train=part(slice(0, 8)),
        valid=part(slice(8, 9)),
        test=part(slice(9, 10)),
        features={},
        user_ids=np.arange(200).astype(str),
        item_ids=np.arange(60).astype(str),
        split="predefined",
    )


def test_validation_takes_the_step_where_items_follow_each_other():
    walked = circle((1, 2, 3))
    found = {
        weight: ease_initialization(walked, 16, GIVEN._replace(transitions=weight))
        for weight in (0.0, None)
    }
    assert found[0.0].transitions == 0 and found[None].transitions > 0
    rank = {}
    for weight, ease in found.items():
        scores = ease.vectors @ ease.items.T
        scores[walked.train.matrix.toarray() > 0] = -np.inf
        own = scores[np.arange(200), walked.valid.item][:, None]
        rank[weight] = np.mean(np.sum(scores > own, axis=1))
    # EASE alone cannot tell the items before a history from those after it.
    assert rank[None] < rank[0.0] - 1
    np.testing.assert_array_equal(found[None].items, found[0.0].items)


def test_the_weight_is_relative_to_the_other_scores(dataset):
    plain = ease_initialization(dataset, 8, GIVEN._replace(transitions=0.0))
    found = ease_initialization(dataset, 8, GIVEN._replace(transitions=0.5))
    by_ease = plain.vectors @ plain.items.T
    spread = np.sqrt(np.mean(np.var(by_ease, axis=1)))
    expected = by_ease + 0.5 * spread * literal_scores(dataset.train, plain.items)
    np.testing.assert_allclose(found.vectors @ found.items.T, expected, atol=1e-8)
    assert found.transitions == 0.5


@pytest.mark.parametrize(("gain", "weight"), [(0.4, 0.0), (0.6, 0.5)])
def test_validation_takes_a_weight_half_an_error_ahead(dataset, gain, weight, monkeypatch):
    ahead = gain + np.array([1.0, -1.0, 1.0, -1.0]) * np.sqrt(3)  # A standard error of 1.
    calls = iter((0.0, 0.3, 1.0, 0.5))  # For the weights 0, 1/4, 1/2, 1.
    compared = []

    def ndcg(items, vectors, *_):
        compared.append(vectors)
        return ahead * next(calls)

    monkeypatch.setattr(ease_settings, "_ndcg", ndcg)
    found = ease_initialization(dataset, 8, GIVEN._replace(transitions=None))
    assert found.transitions == weight
    holders = np.flatnonzero(dataset.valid.counts)
    for tried, vectors in zip(ease_settings.TRANSITIONS, compared, strict=True):
        given = ease_initialization(dataset, 8, GIVEN._replace(transitions=tried))
        np.testing.assert_array_equal(vectors, given.vectors[holders])
        if tried == weight:
            np.testing.assert_array_equal(found.vectors, given.vectors)


def test_which_weights_are_tried(dataset):
    nobody = Interactions.from_pairs(user=[], item=[], num_users=USERS, num_items=ITEMS)
    unjudged = dataclasses.replace(dataset, valid=nobody)
    train = dataclasses.replace(dataset.train, time=np.zeros_like(dataset.train.time))
    untimed = dataclasses.replace(dataset, train=train)
    assert tried_transitions(dataset, None) == ease_settings.TRANSITIONS
    assert tried_transitions(unjudged, None) == tried_transitions(untimed, None) == (0.0,)
    assert tried_transitions(unjudged, 0.5) == (0.5,)


@pytest.mark.parametrize(("weight", "numbers"), [(-1, 15 + 25), (0.0, 0), (0.3, 15 + 25)])
def test_what_is_exchanged(dataset, weight, numbers):
    given = dict(init_content=0.0, init_normalization=0.0, init_ials=0, init_exchanges=2)
    config = Config.from_flat(width=5, init="ease", fusion="none", init_transitions=weight, **given)
    (exchange,) = exchanges_of(config, make_model(config.resolved, ITEMS, {}), dataset)
    assert ("transitions" in exchange.line) == (exchange.once > 0)
    assert exchange.once == numbers
    assert exchange.down == ITEMS * (1 + 2 * ITEMS + 5) + (50 if numbers else 0)


def test_no_more_columns_are_exchanged_than_there_are_items(dataset):
    config = Config.from_flat(
        width=50, init="ease", fusion="none", init_transitions=0.5, init_ials=0
    )
    (exchange,) = exchanges_of(config, make_model(config.resolved, ITEMS, {}), dataset)
    assert exchange.once == ITEMS * (ITEMS + 1) // 2 + ITEMS**2


def test_the_memory_of_the_step_is_counted_where_it_is_taken(dataset):
    def need(**flags):
        given = dict(width=5, init="ease", fusion="none", memory_budget_gb=1e-7)
        with pytest.raises(InputError, match="init=ease: needs about") as refused:
            make_simulation(Config.from_flat(**given, **flags), dataset)
        return float(re.search(r"about (\S+) GB", str(refused.value))[1])

    assert need() == need(init_transitions=0.5) > need(init_transitions=0.0)


def test_a_weight_below_zero_is_refused():
    with pytest.raises(InputError, match=r"init_transitions=-0\.5: out of range"):
        Config.from_flat(init_transitions=-0.5)
