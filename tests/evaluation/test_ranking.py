"""Counts ahead and tied: by hand, against a literal loop, and with bad scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.evaluation.ranking import count_ahead


@pytest.fixture(autouse=True)
def strict_numerics():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def counts(scores, targets, masked=None):
    scores = np.asarray(scores, np.float32)
    masked = np.zeros(scores.shape, bool) if masked is None else np.asarray(masked, bool)
    ranks = count_ahead(jnp.asarray(scores), jnp.asarray(targets, jnp.int32), jnp.asarray(masked))
    return ranks.ahead.tolist(), ranks.tied.tolist(), ranks.finite.tolist()


def test_ahead_and_tied_by_hand():
    scores = [[9, 5, 5, 1, 5, 7]]
    # Item 1 (score 5): items 0 and 5 are ahead, items 2 and 4 are tied with it.
    # Item 0 (score 9): first, alone. Item 3 (score 1): all five others are ahead.
    assert counts(scores, [[1, 0, 3]]) == ([[2, 0, 5]], [[2, 0, 0]], [True])


def test_a_masked_item_is_neither_ahead_nor_tied():
    scores = [[9, 5, 5, 1, 5, 7]]
    masked = [[1, 0, 1, 0, 0, 0]]
    # Without items 0 and 2: item 5 is ahead of item 1, item 4 is tied with it.
    assert counts(scores, [[1]], masked) == ([[1]], [[1]], [True])


def test_the_other_targets_of_a_user_remain_candidates():
    # Both targets score 3: each is tied with the other and behind item 2.
    assert counts([[3, 3, 8]], [[0, 1]]) == ([[1, 1]], [[1, 1]], [True])


def test_padding_targets_count_nothing():
    scores = [[1, 2, 3], [3, 3, 3]]
    assert counts(scores, [[0, -1], [-1, -1]]) == ([[2, 0], [0, 0]], [[0, 0], [0, 0]], [True, True])


def test_a_constant_score_ties_with_every_other_candidate():
    masked = [[0, 0, 1, 0, 1]]
    assert counts([[0, 0, 0, 0, 0]], [[0]], masked) == ([[0]], [[2]], [True])


def test_both_zeros_tie():
    assert counts([[0.0, -0.0, 1.0]], [[0, 1]]) == ([[1, 1]], [[1, 1]], [True])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_reported_for_its_user_alone(bad):
    scores = [[1, bad, 2], [1, 3, 2]]
    ahead, tied, finite = counts(scores, [[0], [0]])
    assert finite == [False, True]
    assert (ahead[1], tied[1]) == ([2], [0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_a_masked_item_scores_does_not_matter(bad):
    assert counts([[1, bad, 2]], [[0]], [[0, 1, 0]]) == ([[1]], [[0]], [True])


def literal_counts(scores, target, masked):
    rivals = [i for i in range(len(scores)) if i != target and not masked[i]]
    ahead = sum(scores[i] > scores[target] for i in rivals)
    return ahead, sum(scores[i] == scores[target] for i in rivals)


def random_case(rng, users=20, items=30, width=4):
    scores = rng.integers(0, 6, (users, items)).astype(np.float32)
    targets = np.stack([rng.permutation(items)[:width] for _ in range(users)]).astype(np.int32)
    masked = rng.random((users, items)) < 0.4
    # No target is masked: the loaders leave such targets out.
    np.put_along_axis(masked, targets, False, axis=1)
    return scores, targets, masked


def test_random_cases_against_a_literal_loop():
    scores, targets, masked = random_case(np.random.default_rng(0))
    expected = [
        [literal_counts(s, t, m) for t in row]
        for s, row, m in zip(scores, targets, masked, strict=True)
    ]
    ahead, tied, finite = counts(scores, targets, masked)
    np.testing.assert_array_equal(np.stack([ahead, tied], axis=-1), expected)
    assert all(finite)


def test_the_order_of_the_catalogue_does_not_matter():
    rng = np.random.default_rng(1)
    scores, targets, masked = random_case(rng)
    order = rng.permutation(scores.shape[1])
    moved = np.argsort(order)[targets]
    assert counts(scores, targets, masked) == counts(scores[:, order], moved, masked[:, order])


def test_compiled_counts_are_the_same_integers():
    case = [jnp.asarray(x) for x in random_case(np.random.default_rng(2))]
    for plain, compiled in zip(count_ahead(*case), jax.jit(count_ahead)(*case), strict=True):
        assert plain.dtype == compiled.dtype
        np.testing.assert_array_equal(plain, compiled)
