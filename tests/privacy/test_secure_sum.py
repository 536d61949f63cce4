"""Secure sums are exact, or abort."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlr_jax.errors import InputError
from fedvlr_jax.privacy.secure_sum import (
    Aborted,
    _masked,
    cost,
    regular_graph,
    secret_of,
    secure_sum,
    shares_of,
)

GRAPH = {"neighbours": 16, "threshold": 9}


def uploads(clients, size=50):
    return np.random.default_rng(3).integers(0, 2**32, (clients, size), np.uint32)


def plain(sent, dropped):
    return np.delete(sent, list(dropped), axis=0).sum(axis=0, dtype=np.uint32)


@pytest.mark.parametrize(
    ("clients", "count", "neighbours"),
    [
        *((256, count, 16) for count in (0, 1, 5)),
        *((256, count, 80) for count in (26, 51, 76)),
        *((100, count, 98) for count in (0, 20, 40)),
    ],
)
def test_the_sum_is_exact_whoever_drops_out(clients, count, neighbours):
    """The more drop out, the more neighbours it takes for each seed to have half of them left."""
    sent = uploads(clients)
    dropped = set(np.random.default_rng(count).choice(clients, count, replace=False).tolist())
    threshold = neighbours // 2 + 1
    total = secure_sum(sent, dropped=dropped, neighbours=neighbours, threshold=threshold)
    np.testing.assert_array_equal(total, plain(sent, dropped))


def test_below_the_threshold_it_aborts():
    dropped = set(regular_graph(40, 16, 0)[7][:8])
    with pytest.raises(Aborted, match="shares remain, but 9 are needed"):
        secure_sum(uploads(40), dropped=dropped, **GRAPH)


def test_one_lying_client_is_noticed():
    with pytest.raises(Aborted, match="a share of its seed was wrong"):
        secure_sum(uploads(40), liars={5}, **GRAPH)


def test_what_one_client_sends_is_uniform():
    sent = _masked(3, np.zeros(20_000, np.uint32), [1, 5], 77, list(range(10)))
    share = np.bincount(sent >> 28, minlength=16) / len(sent)
    # sqrt(1 / 16 / 20000) = .0018, four of them.
    assert np.abs(share - 1 / 16).max() < 0.0071


def test_float_masks_would_not_cancel():
    rng = np.random.default_rng(0)
    values, mask = rng.normal(size=500).astype(np.float32), np.float32(1e6) * rng.normal(size=500)
    mask = mask.astype(np.float32)
    assert ((values + mask) - mask != values).any()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**60), st.integers(2, 6), st.integers(0, 1000))
def test_any_threshold_shares_give_the_secret_and_fewer_do_not(secret, threshold, seed):
    shares = shares_of(secret, range(7), threshold, seed)
    for chosen in itertools.islice(itertools.combinations(shares, threshold), 10):
        assert secret_of({c: shares[c] for c in chosen}, threshold) == secret
    short = dict(list(shares.items())[: threshold - 1])
    assert secret_of(short, threshold) != secret


def test_graphs():
    graph = regular_graph(30, 6, 1)
    assert all(len(set(n)) == 6 and u not in n for u, n in enumerate(graph))
    assert all(u in graph[v] for u, n in enumerate(graph) for v in n)
    with pytest.raises(InputError, match="an even number"):
        regular_graph(30, 5, 1)
    with pytest.raises(InputError, match="more than half of 16"):
        secure_sum(uploads(40), neighbours=16, threshold=8)


def test_what_is_sent():
    """Keys 64, shares 2 * 16 * 8, numbers 4000, revealed 16 * 8; down: keys 64 * 16, shares."""
    assert cost(1000, 16) == (64 + 256 + 4000 + 128, 1024 + 256, 4)
