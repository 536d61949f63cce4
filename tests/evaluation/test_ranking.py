"""Counts ahead and tied: hand-computed, against a literal loop, and with non-finite scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from fedvlr_jax.data.pairs import Pairs
from fedvlr_jax.evaluation import ranking
from fedvlr_jax.evaluation.ranking import count_ahead


@pytest.fixture(autouse=True)
def strict_numerics():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def pairs(targets, num_items):
    """The lists of targets, one list for each user, as `Pairs` with some padding."""
    client = [user for user, row in enumerate(targets) for _ in row]
    item = [item for row in targets for item in row]
    padding = 3
    return Pairs(
        jnp.asarray([*client, *[0] * padding], jnp.int32),
        jnp.asarray([*item, *[num_items] * padding], jnp.int32),
    )


def counts(scores, targets, masked=None):
    """`ahead` and `tied` as lists of the shape of `targets`, and `finite`."""
    scores = np.asarray(scores, np.float32)
    masked = np.zeros(scores.shape, bool) if masked is None else np.asarray(masked, bool)
    flat = pairs(targets, scores.shape[1])
    ranks = count_ahead(jnp.asarray(scores), flat, jnp.asarray(masked))
    ends = np.cumsum([len(row) for row in targets])
    # The counts of padding are 0.
    assert not ranks.ahead[ends[-1] :].any() and not ranks.tied[ends[-1] :].any()
    rows = [
        [part.tolist() for part in np.split(np.asarray(x)[: ends[-1]], ends[:-1])]
        for x in ranks[:2]
    ]
    return *rows, ranks.finite.tolist()


def test_ahead_and_tied_by_hand():
    scores = [[9, 5, 5, 1, 5, 7]]
    # Item 1 (score 5): items 0 and 5 are ahead, items 2 and 4 are tied with it.
    # Item 0 (score 9) is first and ties with none. Item 3 (score 1): all five others are ahead.
    assert counts(scores, [[1, 0, 3]]) == ([[2, 0, 5]], [[2, 0, 0]], [True])


def test_a_masked_item_is_neither_ahead_nor_tied():
    scores = [[9, 5, 5, 1, 5, 7]]
    masked = [[1, 0, 1, 0, 0, 0]]
    # Without items 0 and 2: item 5 is ahead of item 1, item 4 is tied with it.
    assert counts(scores, [[1]], masked) == ([[1]], [[1]], [True])


def test_the_other_targets_of_a_user_remain_candidates():
    # Both targets score 3: each is tied with the other and behind item 2.
    assert counts([[3, 3, 8]], [[0, 1]]) == ([[1, 1]], [[1, 1]], [True])


def test_users_may_have_any_number_of_targets():
    scores = [[1, 2, 3], [3, 3, 3], [1, 2, 3]]
    ahead, tied, finite = counts(scores, [[0], [], [0, 1, 2]])
    assert (ahead, tied) == ([[2], [], [2, 1, 0]], [[0], [], [0, 0, 0]])
    assert finite == [True, True, True]


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
    """In Python's floats, which are float64."""
    rivals = [i for i in range(len(scores)) if i != target and not masked[i]]
    ahead = sum(float(scores[i]) > float(scores[target]) for i in rivals)
    return ahead, sum(float(scores[i]) == float(scores[target]) for i in rivals)


@st.composite
def ragged_cases(draw):
    """Few distinct scores, some not finite; any number of targets; masked items."""
    users, items = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    score = st.sampled_from([-1.0, -0.0, 0.0, 1.0, 1.0 + 2.0**-20, 3e38, np.nan, np.inf, -np.inf])
    of_user = st.lists(score, min_size=items, max_size=items)
    scores = np.array(draw(st.lists(of_user, min_size=users, max_size=users)), np.float32)
    masked = np.zeros(scores.shape, bool)
    targets = []
    for user in range(users):
        order = draw(st.permutations(range(items)))
        number, hidden = draw(st.integers(0, items)), draw(st.integers(0, items))
        # Loaders drop masked targets, so no target is masked. Its score is not NaN.
        masked[user, order[number : number + hidden]] = True
        targets.append(sorted(order[:number]))
        scores[user, targets[-1]] = np.nan_to_num(scores[user, targets[-1]], nan=2.0)
    return scores, targets, masked


@settings(max_examples=150, deadline=None, derandomize=True)
@given(case=ragged_cases(), block=st.sampled_from([1, 20, 1 << 24]))
@pytest.mark.slow
def test_ragged_cases_against_a_literal_loop(case, block):
    scores, targets, masked = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK_SCORES", block)
        ahead, tied, finite = counts(scores, targets, masked)
    for user, row in enumerate(targets):
        expected = [literal_counts(scores[user], target, masked[user]) for target in row]
        assert list(zip(ahead[user], tied[user], strict=True)) == expected
        assert finite[user] == all(np.isfinite(scores[user]) | masked[user])


def random_case(rng, users=20, items=30):
    scores = rng.integers(0, 6, (users, items)).astype(np.float32)
    targets = [rng.permutation(items)[: rng.integers(5)].tolist() for _ in range(users)]
    masked = rng.random((users, items)) < 0.4
    for user, row in enumerate(targets):
        masked[user, row] = False
    return scores, targets, masked


def test_the_order_of_the_catalogue_does_not_matter():
    rng = np.random.default_rng(1)
    scores, targets, masked = random_case(rng)
    order = rng.permutation(scores.shape[1])
    moved = [np.argsort(order)[row].tolist() for row in targets]
    assert counts(scores, targets, masked) == counts(scores[:, order], moved, masked[:, order])


def test_compiled_counts_are_the_same_integers():
    scores, targets, masked = random_case(np.random.default_rng(2))
    case = jnp.asarray(scores), pairs(targets, scores.shape[1]), jnp.asarray(masked)
    for plain, compiled in zip(count_ahead(*case), jax.jit(count_ahead)(*case), strict=True):
        assert plain.dtype == compiled.dtype
        np.testing.assert_array_equal(plain, compiled)


def test_the_work_grows_with_the_number_of_targets(monkeypatch):
    """It compares (number of targets) x items scores, although one user has 60 targets."""
    users, items, most = 40, 100, 8 * 100
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(users, items)).astype(np.float32)
    targets = [[user] for user in range(users)]
    targets[7] = list(range(60))
    compared = []
    count = ranking._above_and_equal

    def counted(block, own):
        compared.append(block.size)
        return count(block, own)

    monkeypatch.setattr(ranking, "BLOCK_SCORES", most)
    monkeypatch.setattr(ranking, "_above_and_equal", counted)
    # Without compilation, each step of the loop calls this function again. The list has 99 targets
    # and room for a thousand more.
    own = pairs(targets, items)
    own = Pairs(jnp.pad(own.client, (0, 1000)), jnp.pad(own.item, (0, 1000), constant_values=items))
    with jax.disable_jit():
        count_ahead(jnp.asarray(scores), own, jnp.zeros((users, items), bool))
    assert max(compared) <= most
    assert 99 * items <= sum(compared) < 99 * items + most


def test_memory_is_bounded_by_the_scores_and_one_block(monkeypatch):
    users, items, targets = 10, 50, 4000
    monkeypatch.setattr(ranking, "BLOCK_SCORES", 1000)
    shape = jax.ShapeDtypeStruct
    own = Pairs(shape((targets,), np.int32), shape((targets,), np.int32))
    case = shape((users, items), np.float32), own, shape((users, items), bool)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (var.aval.size for var in equation.outvars)
            for inner in jaxprs_in_params(equation.params):
                yield from sizes(inner)

    largest = max(sizes(jax.make_jaxpr(count_ahead)(*case).jaxpr))
    # A gather has two index values for each target.
    assert largest <= max(users * items, 1000, 2 * targets)
