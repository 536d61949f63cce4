"""Whole rounds, scores and ranks of the package against the reference, in float64.

The tests compare some of 200 random federations; these cover every rule, every transform of the
uploads, and every pair of values of the main choices. With FEDVLR_ORACLE=all they compare all 200.
"""

import os

import jax
import numpy as np
import pytest

from fedvlr_jax.reduce import REDUCTIONS
from tests.oracle import adapter, reference, uploads
from tests.oracle.federations import ALL, CHOICES, essential, federations, flags_of, pairwise

pytestmark = pytest.mark.usefixtures("double_precision")
NUMBERS = range(ALL) if os.environ.get("FEDVLR_ORACLE") == "all" else pairwise()
COMPILED = [number for number in NUMBERS if federations()[number]["received"] == "int32"]
ROUNDS = 2


def assert_close(actual, expected, tolerance, name):
    size = abs(expected).max(initial=1e-3)
    np.testing.assert_allclose(
        actual, expected, rtol=tolerance, atol=tolerance * size, err_msg=name
    )


def assert_states_agree(federation, state, expected, tolerance):
    assert int(state.server.round) == expected["round"]
    shared = adapter.shared_of(state.server)
    assert set(shared) == set(expected["shared"])
    for name, leaf in shared.items():
        assert_close(leaf, expected["shared"][name], tolerance, name)
    for user, rows in enumerate(adapter.private_of(federation, state)):
        assert set(rows) == set(expected["private"][user])
        for name, leaf in rows.items():
            assert_close(leaf, expected["private"][user][name], tolerance, f"user {user}: {name}")


def compare(number, choices):
    federation = adapter.make_federation(number, choices)
    simulation, options, features = federation.simulation, federation.options, federation.features
    state = adapter.random_state(federation)
    expected = adapter.reference_state(federation, state)
    # Recency weights, rates of negatives, adaptive bounds and fixed-point sums have about seven
    # digits. Two rounds and the quotients of Adam amplify the rounding error.
    coarse = choices["recency"] or choices["received"] == "int32" or options.clip_quantile
    tolerance = 1e-5 if coarse else 2e-6
    for _ in range(ROUNDS):
        clients = adapter.given_to(federation, state.server)
        draws = adapter.draws_of(federation, state.server)
        expected, report = reference.play_round(options, features, expected, clients, draws)
        state, metrics = simulation.run_rounds(state, 1)
        assert int(metrics.participants[0]) == report["answered"]
        assert metrics.clipped[0] == pytest.approx(report["clipped"], abs=1e-6)
        assert metrics.loss[0] == pytest.approx(report["loss"], rel=1e-5)
        assert_states_agree(federation, state, expected, tolerance)
        if options.clip_quantile:
            assert float(state.server.uplink) == pytest.approx(expected["bound"], rel=1e-6)
    scores, weights = reference.all_scores(options, features, expected, federation.clients)
    for part in ("valid", "test"):
        ranks, found = simulation.ranks_and_weights(state, part)
        assert_close(found, weights, tolerance, "router weights")
        assert_ranks_agree(simulation, ranks, part, scores)
    assert_recommendations_agree(simulation, state, scores, tolerance)


def assert_ranks_agree(simulation, ranks, part, scores):
    """The masked items: train and, for the test part under the strict protocol, valid."""
    data = simulation.dataset
    strict = part == "test" and simulation.config.evaluation.protocol == "strict"
    for user, score in enumerate(scores):
        masked = set(data.train.of(user)) | (set(data.valid.of(user)) if strict else set())
        first = getattr(data, part).indptr[user]
        for place, target in enumerate(getattr(data, part).of(user), first):
            found = ranks.ahead[place], ranks.tied[place]
            assert found == reference.ranks(score, target, masked), (part, user)


def assert_recommendations_agree(simulation, state, scores, tolerance):
    data = simulation.dataset
    items, found = simulation.recommend(state, data.num_items)
    for user, score in enumerate(scores):
        owned = np.concatenate([data.train.of(user), data.valid.of(user)])
        free = np.setdiff1d(np.arange(data.num_items), owned)
        # Items with equal scores may be in any order.
        assert set(items[user][: len(free)]) == set(free)
        assert np.all(np.isneginf(found[user][len(free) :]))
        assert_close(found[user][: len(free)], np.sort(score[free])[::-1], tolerance, "scores")
        assert_close(score[items[user][: len(free)]], found[user][: len(free)], tolerance, "items")


def slow_but_for(fast):
    marks = lambda number: [] if number in fast else [pytest.mark.slow]
    return [pytest.param(number, marks=marks(number)) for number in NUMBERS]


@pytest.mark.parametrize("number", slow_but_for(essential()))
def test_rounds_scores_and_ranks(number):
    # Without jit: the compilation of whole rounds takes several times as long. Sums over devices
    # need jit.
    choices = dict(federations()[number])
    if choices["received"] == "int32":
        choices["received"] = "plain"
    with jax.disable_jit():
        compare(number, choices)


@pytest.mark.parametrize("number", COMPILED)
@pytest.mark.slow
def test_compiled_rounds(number):
    compare(number, federations()[number])


def test_the_federations_hold_every_value_of_every_choice():
    for name, values in CHOICES.items():
        assert {federations()[number][name] for number in essential()} >= set(values), name


def test_the_federations_hold_every_rule_and_transform():
    flags = [flags_of(federations()[number]) for number in range(ALL)]
    rules = [given["aggregation"] for given in flags]
    assert set(rules) == set(REDUCTIONS) == set(uploads.RULES)
    assert min(rules.count(rule) for rule in REDUCTIONS) >= 4
    for transform in ("clip_quantile", "noise_multiplier", "upload_bits", "upload_rows"):
        assert sum(bool(given.get(transform)) for given in flags) >= 4, transform
